public import DCPCore
public import DCPWire
internal import NIOCore

/// Attention.
extension Cluster {
    /// One attention call for one layer: appends the entries' keys and values to their sequences, and answers with the
    /// exact causal attention of the queries over everything before and among them.
    ///
    /// - Parameters:
    ///   - layer: which layer of the entries' model.
    ///   - entries: the sequences, each with the position where its layer ends and how many tokens it brings.
    ///   - queries: `[tokens][Hq][Dk]`, the entries' tokens one after the other.
    ///   - keys: `[tokens][Hkv][Dk]`
    ///   - values: `[tokens][Hkv][Dv]`, of the same dtype as `keys`; nil where they are a part of the keys.
    ///   - queryMode: whether ranks gather the queries or are each sent all of them.
    /// - Throws: `.invalidRequest` for a number beyond `InputLimits`; `.positionMismatch` with both numbers; `.claimed` when
    ///   another client has taken a sequence over; a retryable error when the cluster cannot answer now. After any error call
    ///   `resume` before going on.
    public func step(
        layer: Int, _ entries: [StepRequest.Entry], model: ModelRecord, queries: TokenRows, keys: TokenRows,
        values: TokenRows?, queryMode: StepRequest.QueryMode = .gather, wantsLSE: Bool = true
    ) async throws(ServiceError) -> AttentionOutput {
        let tokens = entries.reduce(0) { $0 + $1.count }
        let attention = try model.attention(ofLayer: layer)
        try Self.check(queries, "queries", tokens, attention.queryHeads, attention.keyDim)
        try Self.check(keys, values, tokens, attention)
        // Ranks check again. Here nothing is sent yet, and a number can be named by its head in the model.
        if checksInputs {
            let limits = InputLimits(attention, kvDataType: model.description.kvDataType)
            try queries.check(.query, limits)
            try keys.check(.key, limits)
            try values?.check(.value, limits)
        }
        let topology = try await readyTopology()
        let entries = try await claimed(entries, in: topology.epoch)
        let partition = topology.shape.partition(of: attention)
        let requests = topology.shape.allRanks.map { rank in
            let group = topology.shape.headGroup(of: rank)
            let groupHeads = group * partition.queryHeads..<(group + 1) * partition.queryHeads
            let heads =
                queryMode == .replicate ? groupHeads : topology.shape.ownHeads(of: rank, partition: partition)
            let kvHeads = group * partition.kvHeads..<(group + 1) * partition.kvHeads
            return (
                rank: rank,
                request: StepRequest(
                    model: model.id, queryMode: queryMode, wantsLSE: wantsLSE,
                    timeoutMilliseconds: UInt32(clamping: Int(timeouts.step / .milliseconds(1))), entries: entries,
                    queryDataType: queries.dataType, keyValueDataType: keys.dataType, queryHeads: heads.count,
                    kvHeads: kvHeads.count, keyDim: attention.keyDim, valueDim: attention.ownValueDim,
                    queries: queries.headMajor(heads), keys: keys.headMajor(kvHeads),
                    values: values?.headMajor(kvHeads) ?? ByteBuffer())
            )
        }
        // The ranks' own deadline ends first, so that the verdict names what was waited for.
        let replies = try await ask(
            requests, topology: topology,
            tag: Tag(client: client, number: takeNumber(), layer: UInt32(layer)), timeout: timeouts.step + .seconds(2))
        var output = AttentionOutput(
            tokens: tokens, heads: attention.queryHeads, valueDim: attention.valueDim, wantsLSE: wantsLSE)
        for ((rank, _), result) in zip(requests, replies) {
            let heads = topology.shape.ownHeads(of: rank, partition: partition)
            guard result.tokens == tokens, result.heads == heads.count, result.valueDim == attention.valueDim,
                (result.lse != nil) == wantsLSE
            else {
                throw Self.unexpected(
                    "outputs [\(result.heads), \(result.tokens), \(result.valueDim)]", from: "\(rank)")
            }
            output.insert(heads: heads, outputs: result.outputs, lse: result.lse)
        }
        return output
    }

    /// Keys and values as a layer has them.
    static func check(
        _ keys: TokenRows, _ values: TokenRows?, _ tokens: Int, _ attention: LayerAttention
    ) throws(ServiceError) {
        try check(keys, "keys", tokens, attention.kvHeads, attention.keyDim)
        guard (values != nil) == (attention.ownValueDim > 0) else {
            throw ServiceError(
                .invalidRequest,
                values == nil
                    ? "The step has no values; the layer needs [\(tokens), \(attention.kvHeads), \(attention.valueDim)]."
                    : "The step has values; the layer's are the first \(attention.valueDim) dimensions of its keys. Leave "
                        + "them out.")
        }
        guard let values else { return }
        try check(values, "values", tokens, attention.kvHeads, attention.valueDim)
        guard keys.dataType == values.dataType else {
            throw ServiceError(
                .invalidRequest,
                "Keys are \(keys.dataType.name) and values \(values.dataType.name); bring both in one dtype.")
        }
    }

    private static func check(_ rows: TokenRows, _ name: String, _ tokens: Int, _ heads: Int, _ dim: Int)
        throws(ServiceError)
    {
        guard (rows.tokens, rows.heads, rows.dim) == (tokens, heads, dim) else {
            throw ServiceError(
                .invalidRequest,
                "The \(name) are [\(rows.tokens), \(rows.heads), \(rows.dim)], the step and its layer need "
                    + "[\(tokens), \(heads), \(dim)]; correct the tensors.")
        }
    }
}

extension ModelRecord {
    /// - Throws: `.invalidRequest` for a layer that the model has not.
    func attention(ofLayer layer: Int) throws(ServiceError) -> LayerAttention {
        guard (0..<description.layers).contains(layer) else {
            throw ServiceError(
                .invalidRequest,
                "Layer \(layer) is outside 0..<\(description.layers) of model `\(name)`; correct the number.")
        }
        return description[layer]
    }
}

extension ClusterShape {
    /// A rank's own heads, numbered over the whole model.
    fileprivate func ownHeads(of rank: RankIndex, partition: HeadPartition) -> Range<Int> {
        let start = headGroup(of: rank) * partition.queryHeads
        let own = partition.ownHeads(ofRank: contextRank(of: rank))
        return start + own.lowerBound..<start + own.upperBound
    }
}
