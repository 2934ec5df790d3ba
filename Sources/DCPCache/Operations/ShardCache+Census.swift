// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import Synchronization

/// An overview of all sequences, for requests about a million of them: `state(of:)` needs several look-ups for each.
extension ShardCache {
    /// A rank's report of a sequence when it joins; see `SequenceState`.
    public struct HeldSequence: Hashable, Sendable {
        public var id: SequenceID
        public var model: ModelID
        public var committedLength: Position
        public var intactLength: Position
        public var retention: Retention
        public var lastChange: UInt64
    }

    /// In no order. Those whose record is damaged are not among them.
    public var heldSequences: [HeldSequence] {
        sequenceCaches.withLock { Array($0.values) }.compactMap { sequence in
            sequence.core.withLock { core in
                guard !core.isClosed else { return nil }
                return HeldSequence(
                    id: sequence.id, model: sequence.model.id, committedLength: core.committed,
                    intactLength: intactLength(core), retention: core.retention, lastChange: core.lastChange)
            }
        }
    }

    /// The length of a sequence that can be served.
    func intactLength(_ core: borrowing SequenceCache.Core) -> Position {
        guard let damage = core.damage else { return core.committed }
        // The first length that needs the damaged token is its position + 1.
        return min(core.committed, shard.position(of: damage.start))
    }

    /// Committed tokens of this rank, summed over sequences. Of many it is counted again when a hundred times as long as that
    /// takes has passed: the event loop asks.
    func countedTokens() -> Int {
        let now = ContinuousClock.now
        if let count = tokenCount.withLock({ $0.due > now ? $0.value : nil }) { return count }
        let all = sequenceCaches.withLock { Array($0.values) }
        let count = all.reduce(0) { $0 + shard.count(of: $1.core.withLock { $0.committed }) }
        let pause: Duration = all.count < Self.sequencesCountedAlways ? .zero : (ContinuousClock.now - now) * 100
        tokenCount.withLock { $0 = TokenCount(value: count, due: now + pause) }
        return count
    }

    private static var sequencesCountedAlways: Int { 10_000 }

    struct TokenCount: Sendable {
        var value = 0
        var due = ContinuousClock.now
    }
}
