public import DCPCore
public import DCPWire

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
    ///   - values: `[tokens][Hkv][Dv]`, of the same dtype as `keys`.
    ///   - queryMode: whether ranks gather the queries or are each sent all of them.
    /// - Throws: `.invalidRequest` for a number beyond `InputLimits`; `.positionMismatch` with both numbers; `.claimed` when
    ///   another client has taken a sequence over; a retryable error when the cluster cannot answer now. After any error call
    ///   `resume` before going on.
    public func step(
        layer: Int, _ entries: [StepRequest.Entry], model: ModelRecord, queries: TokenRows, keys: TokenRows,
        values: TokenRows, queryMode: StepRequest.QueryMode = .gather, wantsLSE: Bool = true
    ) async throws(ServiceError) -> AttentionOutput {
        let tokens = entries.reduce(0) { $0 + $1.count }
        try Self.check(queries, "queries", tokens, model.shape.queryHeads, model.shape.keyDim)
        try Self.check(keys, "keys", tokens, model.shape.kvHeads, model.shape.keyDim)
        try Self.check(values, "values", tokens, model.shape.kvHeads, model.shape.valueDim)
        guard keys.dataType == values.dataType else {
            throw ServiceError(
                .invalidRequest,
                "Keys are \(keys.dataType.name) and values \(values.dataType.name); bring both in one dtype.")
        }
        // Ranks check again. Here nothing is sent yet, and a number can be named by its head in the model.
        if checksInputs {
            let limits = InputLimits(model.shape)
            try queries.check(.query, limits)
            try keys.check(.key, limits)
            try values.check(.value, limits)
        }
        let topology = try await readyTopology()
        let entries = try await claimed(entries, in: topology.epoch)
        let partition = topology.shape.partition(of: model.shape)
        let requests = topology.shape.allRanks.map { rank in
            let group = topology.shape.headGroup(of: rank)
            let groupHeads = group * partition.queryHeads..<(group + 1) * partition.queryHeads
            let heads =
                queryMode == .replicate ? groupHeads : topology.shape.ownHeads(of: rank, partition: partition)
            let kvHeads = group * partition.kvHeads..<(group + 1) * partition.kvHeads
            return (
                rank: rank,
                message: Message.step(
                    StepRequest(
                        model: model.id, queryMode: queryMode, wantsLSE: wantsLSE,
                        timeoutMilliseconds: UInt32(clamping: Int(timeouts.step / .milliseconds(1))), entries: entries,
                        queryDataType: queries.dataType, keyValueDataType: keys.dataType, queryHeads: heads.count,
                        kvHeads: kvHeads.count, keyDim: model.shape.keyDim, valueDim: model.shape.valueDim,
                        queries: queries.headMajor(heads), keys: keys.headMajor(kvHeads),
                        values: values.headMajor(kvHeads)))
            )
        }
        // The ranks' own deadline ends first, so that the verdict names what was waited for.
        let replies = try await ask(
            requests, topology: topology,
            tag: Tag(client: client, number: takeNumber(), layer: UInt32(layer)), timeout: timeouts.step + .seconds(2))
        var output = AttentionOutput(
            tokens: tokens, heads: model.shape.queryHeads, valueDim: model.shape.valueDim, wantsLSE: wantsLSE)
        for ((rank, _), reply) in zip(requests, replies) {
            let heads = topology.shape.ownHeads(of: rank, partition: partition)
            guard case .stepResult(let result) = reply, result.tokens == tokens, result.heads == heads.count,
                result.valueDim == model.shape.valueDim, (result.lse != nil) == wantsLSE
            else { throw Self.unexpected(reply, from: "\(rank)") }
            output.insert(heads: heads, outputs: result.outputs, lse: result.lse)
        }
        return output
    }

    private static func check(_ rows: TokenRows, _ name: String, _ tokens: Int, _ heads: Int, _ dim: Int)
        throws(ServiceError)
    {
        guard (rows.tokens, rows.heads, rows.dim) == (tokens, heads, dim) else {
            throw ServiceError(
                .invalidRequest,
                "The \(name) are [\(rows.tokens), \(rows.heads), \(rows.dim)], the step and its model need "
                    + "[\(tokens), \(heads), \(dim)]; correct the tensors.")
        }
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
