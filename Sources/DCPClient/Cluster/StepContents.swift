// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPWire
internal import NIOCore

/// The tensors of a step for all ranks; each receives its part.
struct StepContents {
    var entries: [StepRequest.Entry]
    /// None for tokens that are appended without attention.
    var queries: TokenRows?
    /// None for tokens that are in the cache.
    var keys: TokenRows?
    /// None also where they are a part of the keys.
    var values: TokenRows?
    /// Of queries; nil takes the cheaper one.
    var queryMode: StepRequest.QueryMode?
    var wantsLSE: Bool
    var commits: [SequenceCommit] = []

    var tokens: Int { entries.reduce(0) { $0 + $1.count } }

    /// - Throws: `.invalidRequest` for tensors that are not of the layer's shape.
    func check(_ attention: LayerAttention) throws(ServiceError) {
        if let queries { try check(queries, "queries", attention.queryHeads, attention.keyDim) }
        guard let keys else { return }
        try check(keys, "keys", attention.kvHeads, attention.keyDim)
        guard (values != nil) == (attention.ownValueDim > 0) else {
            throw ServiceError(
                .invalidRequest,
                values == nil
                    ? "The step has no values; the layer needs [\(tokens), \(attention.kvHeads), \(attention.valueDim)]."
                    : "The step has values; the layer's are the first \(attention.valueDim) dimensions of its keys. Leave "
                        + "them out.")
        }
        guard let values else { return }
        try check(values, "values", attention.kvHeads, attention.valueDim)
        guard keys.dataType == values.dataType else {
            throw ServiceError(
                .invalidRequest,
                "Keys are \(keys.dataType.name) and values are \(values.dataType.name); use one dtype for both.")
        }
    }

    private func check(_ rows: TokenRows, _ name: String, _ heads: Int, _ dim: Int) throws(ServiceError) {
        guard (rows.tokens, rows.heads, rows.dim) == (tokens, heads, dim) else {
            throw ServiceError(
                .invalidRequest,
                "The \(name) are [\(rows.tokens), \(rows.heads), \(rows.dim)], but the step and its layer need "
                    + "[\(tokens), \(heads), \(dim)]; correct the tensors.")
        }
    }

    /// - Throws: `.invalidRequest`, with the first number that is NaN, infinite or beyond its limit.
    func check(_ limits: InputLimits) throws(ServiceError) {
        try queries?.check(.query, limits)
        try keys?.check(.key, limits)
        try values?.check(.value, limits)
    }

    /// A rank's part: the queries of its own heads, or of its group's, and the keys and values of its group's heads; without
    /// queries of those tokens alone that it owns.
    func request(
        to rank: RankIndex, _ queryMode: StepRequest.QueryMode, _ model: ModelRecord, _ attention: LayerAttention,
        _ cluster: ClusterShape, timeout: Duration
    ) -> StepRequest {
        let partition = cluster.partition(of: attention)
        let group = cluster.headGroup(of: rank)
        let groupHeads = group * partition.queryHeads..<(group + 1) * partition.queryHeads
        let sentHeads = queryMode == .replicate ? groupHeads : cluster.ownHeads(of: rank, partition: partition)
        let queryHeads = queries == nil ? 0..<0 : sentHeads
        let kvHeads = group * partition.kvHeads..<(group + 1) * partition.kvHeads
        let owned = queries == nil ? ownedTokens(of: cluster.contextRank(of: rank), cluster.layout) : nil
        let keyValueTokens = keys == nil ? 0 : owned?.count ?? tokens
        let byteCount =
            (queries?.byteCount(queryHeads, tokens: tokens) ?? 0)
            + (keys?.byteCount(kvHeads, tokens: keyValueTokens) ?? 0)
            + (values?.byteCount(kvHeads, tokens: keyValueTokens) ?? 0)
        var tensors = TensorMemory.buffer(byteCount: byteCount)
        queries?.write(queryHeads, to: &tensors)
        keys?.write(kvHeads, of: owned, to: &tensors)
        values?.write(kvHeads, of: owned, to: &tensors)
        let keyValueDataType = keys?.dataType ?? model.description.kvFormat.rowType
        return StepRequest(
            model: model.id, queryMode: queryMode, appends: keys != nil, wantsLSE: wantsLSE,
            timeoutMilliseconds: UInt32(clamping: Int(timeout / .milliseconds(1))), entries: entries,
            queryDataType: queries?.dataType ?? keyValueDataType, keyValueDataType: keyValueDataType,
            queryHeads: queryHeads.count, kvHeads: kvHeads.count, keyDim: attention.keyDim,
            valueDim: attention.ownValueDim, keyValueTokens: keyValueTokens, commits: commits,
            tensors: tensors)
    }

    /// Those of the step's tokens that a context rank owns, in the order of the entries.
    private func ownedTokens(of rank: Int, _ layout: ContextLayout) -> [UInt32] {
        var start: UInt32 = 0
        var owned: [UInt32] = []
        for entry in entries {
            let local = layout.localRange(ofRank: rank, from: entry.position, to: entry.positions.upperBound)
            owned += layout.offsets(ofLocalIndices: local, rank: rank, from: entry.position).map { start + $0 }
            start += UInt32(entry.count)
        }
        return owned
    }
}
