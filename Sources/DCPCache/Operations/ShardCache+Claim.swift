// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
public import DCPCore
internal import Synchronization

/// Uncommitted tokens and their clients.
extension ShardCache {
    /// A client takes a sequence over. Uncommitted tokens that not all layers have are dropped: they are the beginning
    /// of something of which only the predecessor knows the rest, and the next token would stand at other positions in
    /// some layers than in others.
    ///
    /// No step or commit of the sequence may be in progress. A claim older than the known one changes nothing.
    /// - Throws: `.unknownSequence`, `.storeDamaged`; `.notReady` during a truncation.
    public func take(over id: SequenceID, _ claim: Claim) throws(ServiceError) {
        let sequence = try sequence(id)
        let core = sequence.core.withLock { $0 }
        let shortest = core.layers.map { $0.state.withLock(\.length) }.min() ?? core.committed
        try rewind(sequence: id, length: shortest)
        sequence.core.withLock { $0.claim = max($0.claim, claim) }
    }

    /// The latest claim that this rank has been told of; nil for a sequence that it does not serve.
    public func claim(of id: SequenceID) -> Claim? {
        sequenceCaches.withLock { $0[id] }.flatMap { $0.core.withLock { $0.isClosed ? nil : $0.claim } }
    }

    /// Sequences with uncommitted tokens and the bytes of their rows on this rank, the largest first.
    public var uncommittedHoldings: [UncommittedHolding] {
        sequenceCaches.withLock { Array($0.values) }.compactMap { sequence in
            var holding = UncommittedHolding(sequence: sequence.id)
            sequence.core.withLock { core in
                let committed = shard.end(of: core.committed)
                for (layer, panels) in zip(core.layers, sequence.model.panels) {
                    let (end, sealed) = layer.state.withLock {
                        (shard.end(of: $0.length), shard.start(ofBlock: $0.mapped.count))
                    }
                    holding.byteCount += (end - committed) * panels.keptByteCount
                    holding.spilledByteCount += max(min(sealed, end) - committed, 0) * panels.keptByteCount
                }
            }
            return holding.byteCount > 0 ? holding : nil
        }.sorted { ($1.byteCount, $0.sequence) < ($0.byteCount, $1.sequence) }
    }
}

/// The uncommitted bytes of a sequence on this rank.
public struct UncommittedHolding: Hashable, Sendable {
    public var sequence: SequenceID
    /// Of its rows.
    public var byteCount = 0
    /// Of these, bytes spilled to the store.
    public var spilledByteCount = 0
}
