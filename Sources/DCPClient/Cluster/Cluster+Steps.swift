public import DCPCore
public import DCPWire
internal import NIOCore

/// Attention, and what it attends over.
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
    ///   - queryMode: whether ranks gather the queries or are each sent all of them; nil takes what costs less.
    ///   - commits: what every rank commits, as `commit` would, when the step's tokens are in place. The answer then comes when
    ///     that is as durable as the cluster's setting asks for. All layers must have reached the lengths, with this step; so its
    ///     own tokens are committed with the last layer's.
    /// - Throws: `.invalidRequest` for a number beyond `InputLimits`; `.positionMismatch` with both numbers; `.claimed` when
    ///   another client has taken a sequence over; a retryable error when the cluster cannot answer now. After any error call
    ///   `resume` before going on.
    public func step(
        layer: Int, _ entries: [StepRequest.Entry], model: ModelRecord, queries: TokenRows, keys: TokenRows,
        values: TokenRows?, queryMode: StepRequest.QueryMode? = nil, wantsLSE: Bool = true,
        commits: [SequenceCommit] = []
    ) async throws(ServiceError) -> AttentionOutput {
        let contents = StepContents(
            entries: entries, queries: queries, keys: keys, values: values, queryMode: queryMode, wantsLSE: wantsLSE,
            commits: commits)
        return try await attend(contents, layer: layer, model)
    }

    /// Attention alone: answers as `step` would have, had it brought the entries' tokens, which are in the layer already. For
    /// layers that use another layer's keys and values, and for reading a position once more.
    ///
    /// Each query sees the tokens up to its own position, as far as the layer's window goes, and none after it. Nothing is
    /// changed, so it may be sent again. The answer has other bits than that of the step which brought the tokens: that one
    /// attended to its own tokens apart from those before them. The difference is of the order of Float32's rounding.
    ///
    /// - Parameters:
    ///   - entries: the sequences, each with the position of its first query and how many follow each other; all of them inside
    ///     the layer, committed or not.
    ///   - queries: `[tokens][Hq][Dk]`, the entries' tokens one after the other.
    /// - Throws: as `step`; `.positionMismatch` with both numbers for positions that the layer does not have.
    public func query(
        layer: Int, _ entries: [StepRequest.Entry], model: ModelRecord, queries: TokenRows,
        queryMode: StepRequest.QueryMode? = nil, wantsLSE: Bool = true
    ) async throws(ServiceError) -> AttentionOutput {
        let contents = StepContents(entries: entries, queries: queries, queryMode: queryMode, wantsLSE: wantsLSE)
        return try await attend(contents, layer: layer, model)
    }

    /// Appends keys and values of one layer without attention, under the rules of steps. Each rank is sent the tokens that it
    /// owns, and no others.
    ///
    /// - Parameters:
    ///   - keys: `[tokens][Hkv][Dk]`, the entries' tokens one after the other.
    ///   - values: `[tokens][Hkv][Dv]`, of the same dtype as `keys`; nil where they are a part of the keys.
    /// - Throws: as `step`; after any error call `resume` before going on.
    public func append(
        layer: Int, _ entries: [StepRequest.Entry], model: ModelRecord, keys: TokenRows, values: TokenRows?
    ) async throws(ServiceError) {
        let contents = StepContents(
            entries: entries, keys: keys, values: values, wantsLSE: false)
        let (results, topology) = try await send(contents, layer: layer, model)
        for (rank, result) in zip(topology.shape.allRanks, results)
        where result.tokens != contents.tokens || result.heads != 0 {
            throw Self.unexpected("outputs of \(result.heads) heads and \(result.tokens) tokens", from: "\(rank)")
        }
    }

    private func attend(
        _ contents: StepContents, layer: Int, _ model: ModelRecord
    ) async throws(ServiceError) -> AttentionOutput {
        let attention = try model.attention(ofLayer: layer)
        let (results, topology) = try await send(contents, layer: layer, model)
        let partition = topology.shape.partition(of: attention)
        var output = AttentionOutput(
            tokens: contents.tokens, heads: attention.queryHeads, valueDim: attention.valueDim,
            wantsLSE: contents.wantsLSE)
        for (rank, result) in zip(topology.shape.allRanks, results) {
            let heads = topology.shape.ownHeads(of: rank, partition: partition)
            guard result.tokens == contents.tokens, result.heads == heads.count,
                result.valueDim == attention.valueDim, (result.lse != nil) == contents.wantsLSE
            else {
                throw Self.unexpected(
                    "outputs [\(result.heads), \(result.tokens), \(result.valueDim)]", from: "\(rank)")
            }
            output.insert(heads: heads, outputs: result.outputs, lse: result.lse)
        }
        return output
    }

    /// Sends each rank its part of a step.
    /// - Returns: the answers in the order of the ranks.
    private func send(
        _ contents: StepContents, layer: Int, _ model: ModelRecord
    ) async throws(ServiceError) -> ([StepResult], Topology) {
        let attention = try model.attention(ofLayer: layer)
        try contents.check(attention)
        // Ranks check again. Here nothing is sent yet, and a number can be named by its head in the model.
        if checksInputs { try contents.check(InputLimits(attention, kvFormat: model.description.kvFormat)) }
        let topology = try await readyTopology()
        var contents = contents
        contents.entries = try await claimed(contents.entries, in: topology.epoch)
        contents.commits = try await claimed(contents.commits, in: topology.epoch)
        let queryMode = contents.queryMode(in: topology, attention)
        let requests = topology.shape.allRanks.map { [contents] rank in
            (
                rank: rank,
                request: contents.request(
                    to: rank, queryMode, model, attention, topology.shape, timeout: timeouts.step)
            )
        }
        // The ranks' own deadline ends first, so that the verdict names what was waited for.
        let replies = try await ask(
            requests, topology: topology,
            tag: Tag(client: client, number: takeNumber(), layer: UInt32(layer)), timeout: timeouts.step + .seconds(2))
        return (replies, topology)
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
    func ownHeads(of rank: RankIndex, partition: HeadPartition) -> Range<Int> {
        let start = headGroup(of: rank) * partition.queryHeads
        let own = partition.ownHeads(ofRank: contextRank(of: rank))
        return start + own.lowerBound..<start + own.upperBound
    }
}
