// SPDX-License-Identifier: Apache-2.0

internal import DCPClient
internal import DCPCore
internal import Synchronization

/// A client that sends the same prefill one time after the other, at the end of a long sequence, while others are measured.
final class PrefillLoad: Sendable {
    private let cluster: Cluster
    private let sequence: SequenceHandle
    private let position: Int
    private let queries: TokenRows
    private let keys: TokenRows
    private let values: TokenRows
    private let isOver = Atomic<Bool>(false)

    /// - Parameters:
    ///   - cluster: its own connections.
    ///   - position: the sequence's length, all committed.
    ///   - queries: of the prefill's tokens, as are `keys` and `values`.
    init(
        _ cluster: Cluster, _ sequence: SequenceHandle, position: Int, queries: TokenRows, keys: TokenRows,
        values: TokenRows
    ) {
        self.cluster = cluster
        self.sequence = sequence
        self.position = position
        self.queries = queries
        self.keys = keys
        self.values = values
    }

    /// Sends prefills until `stop`. The tokens of each are cut again, so that all have the same context.
    /// - Returns: seconds of each.
    func run() async throws -> [Double] {
        var seconds: [Double] = []
        while !isOver.load(ordering: .relaxed) {
            try Task.checkCancellation()
            let start = ContinuousClock.now
            _ = try await cluster.step(
                layer: 0, [sequence.entry(position: position, count: queries.tokens)], model: sequence.model,
                queries: queries, keys: keys, values: values)
            seconds.append((ContinuousClock.now - start).inSeconds)
            try await cluster.cut([(sequence, position)])[0].get()
        }
        return seconds
    }

    /// The running prefill is the last.
    func stop() { isOver.store(true, ordering: .relaxed) }
}
