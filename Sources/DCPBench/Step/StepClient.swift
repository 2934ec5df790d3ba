// SPDX-License-Identifier: Apache-2.0

internal import DCPClient
internal import DCPCore
internal import DCPWire

/// A client that sends steps one after the other, each at the end of its sequences.
struct StepClient: Sendable {
    let cluster: Cluster
    private let sequences: [SequenceHandle]
    private let load: StepLoad
    private let count: Int
    private let queries: TokenRows
    private let keys: TokenRows
    private let values: TokenRows
    private(set) var position: Int

    /// - Parameters:
    ///   - sequences: as many as a step of the load has, all of which end at `position`.
    ///   - queries: of the tokens of all sequences, as are `keys` and `values`.
    init(
        _ cluster: Cluster, _ sequences: [SequenceHandle], _ load: StepLoad, position: Int, queries: TokenRows,
        keys: TokenRows, values: TokenRows
    ) {
        self.cluster = cluster
        self.sequences = sequences
        self.load = load
        self.position = position
        count = queries.tokens / sequences.count
        self.queries = queries
        self.keys = keys
        self.values = values
    }

    /// Steps through all layers; the last commits, where the load asks for it.
    /// - Returns: the answer of the first layer, and seconds.
    mutating func token() async throws(ServiceError) -> (answer: AttentionOutput, seconds: Double) {
        let entries = sequences.map { $0.entry(position: position, count: count) }
        let commits =
            load.commits
            ? sequences.map { SequenceCommit(sequence: $0.record.id, length: position + count) } : []
        let start = ContinuousClock.now
        var answer: AttentionOutput?
        for layer in 0..<load.layers {
            let output = try await cluster.step(
                layer: layer, entries, model: sequences[0].model, queries: queries, keys: keys, values: values,
                queryMode: load.queryMode, commits: layer == load.layers - 1 ? commits : [])
            if layer == 0 { answer = output }
        }
        let seconds = (ContinuousClock.now - start).inSeconds
        position += count
        guard let answer else { preconditionFailure("a model has layers") }
        return (answer, seconds)
    }
}
