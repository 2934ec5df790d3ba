// SPDX-License-Identifier: Apache-2.0

public import DCPCore
public import DCPWire
internal import NIOCore

/// Attention, and the tokens that it attends over.
extension Cluster {
    /// One attention call for one layer: appends the entries' keys and values to their sequences, and returns the exact
    /// causal attention of the queries over all tokens before and among them.
    ///
    /// - Parameters:
    ///   - layer: which layer of the entries' model.
    ///   - entries: the sequences, each with the position where its layer ends and the number of new tokens.
    ///   - queries: `[tokens][Hq][Dk]`, the entries' tokens one after the other.
    ///   - keys: `[tokens][Hkv][Dk]`
    ///   - values: `[tokens][Hkv][Dv]`, of the same dtype as `keys`; nil if they are part of the keys.
    ///   - queryMode: whether ranks gather the queries or each receive all of them; nil selects the cheaper mode.
    ///   - commits: the commits for every rank to perform, as by `commit`, when the step's tokens are in place. The
    ///     answer then comes when they are as durable as the cluster's setting requires. All layers, including this
    ///     step's, must have reached the lengths, so the step's own tokens are committed with the last layer's step.
    /// - Throws: `.invalidRequest` for a number beyond `InputLimits`; `.positionMismatch` with both numbers; `.claimed`
    ///   if another client has taken a sequence over; a retryable error if the cluster cannot answer now. After any
    ///   error call `resume` before continuing.
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

    /// Computes attention only: returns the same as a `step` with the entries' tokens, which are already in the layer.
    /// For layers that use another layer's keys and values, and for reading a position again.
    ///
    /// Each query sees the tokens up to its own position within the layer's window, and none after it. Nothing changes,
    /// so the call may be repeated. The answer's bits differ from those of the step that appended the tokens, because
    /// that step computed its own tokens separately from those before them. The difference is of the order of Float32's
    /// rounding.
    ///
    /// - Parameters:
    ///   - entries: the sequences, each with the position of its first query and the number of consecutive queries; all
    ///     of them inside the layer, committed or not.
    ///   - queries: `[tokens][Hq][Dk]`, the entries' tokens one after the other.
    /// - Throws: as `step`; `.positionMismatch` with both numbers for positions that the layer does not have.
    public func query(
        layer: Int, _ entries: [StepRequest.Entry], model: ModelRecord, queries: TokenRows,
        queryMode: StepRequest.QueryMode? = nil, wantsLSE: Bool = true
    ) async throws(ServiceError) -> AttentionOutput {
        let contents = StepContents(entries: entries, queries: queries, queryMode: queryMode, wantsLSE: wantsLSE)
        return try await attend(contents, layer: layer, model)
    }

    /// Appends keys and values of one layer without attention, under the rules of steps. Each rank receives only the
    /// tokens that it owns.
    ///
    /// - Parameters:
    ///   - keys: `[tokens][Hkv][Dk]`, the entries' tokens one after the other.
    ///   - values: `[tokens][Hkv][Dv]`, of the same dtype as `keys`; nil if they are part of the keys.
    /// - Throws: as `step`; after any error call `resume` before continuing.
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
        // Ranks check again. Here nothing is sent yet, and the error can name the head within the whole model.
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
        // The ranks' own deadline ends first, so that the verdict has the reason for the wait.
        let replies = try await ask(
            requests, topology: topology,
            tag: Tag(client: client, number: takeNumber(), layer: UInt32(layer)), timeout: timeouts.step + .seconds(2))
        return (replies, topology)
    }
}

extension ModelRecord {
    /// - Throws: `.invalidRequest` for a layer that the model does not have.
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
