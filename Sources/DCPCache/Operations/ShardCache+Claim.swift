internal import DCPAttention
public import DCPCore
internal import Synchronization

/// Whose a sequence's tokens are, and those that are nobody's any more.
extension ShardCache {
    /// Somebody takes a sequence over. Uncommitted tokens that not all layers have are dropped: they are the beginning of
    /// something of which only the predecessor knows the rest, and the next token would stand at other positions in some
    /// layers than in others.
    ///
    /// No step and no commit of the sequence may be under way. A claim that is older than the known one changes nothing.
    /// - Throws: `.unknownSequence`, `.storeDamaged`; `.notReady` during a truncation.
    public func take(over id: SequenceID, _ claim: Claim) throws(ServiceError) {
        let sequence = try sequence(id)
        let shortest = sequence.layers.map { $0.state.withLock(\.length) }.min() ?? 0
        try rewind(sequence: id, length: shortest)
        sequence.core.withLock { $0.claim = max($0.claim, claim) }
    }

    /// The latest claim that this rank has been told of; nil for a sequence that it does not serve.
    public func claim(of id: SequenceID) -> Claim? {
        sequenceCaches.withLock { $0[id] }.flatMap { $0.core.withLock { $0.isClosed ? nil : $0.claim } }
    }

    /// Drops the uncommitted tokens of all layers from `length` (global) on.
    /// - Throws: as `rewind(sequence:layer:length:)`; a layer that ends before `length` is left as it is.
    public func rewind(sequence id: SequenceID, length: Int) throws(ServiceError) {
        for (layer, state) in try sequence(id).layers.enumerated() where state.state.withLock(\.length) > length {
            try rewind(sequence: id, layer: layer, length: length)
        }
    }

    /// Sequences with uncommitted tokens and the bytes of their rows on this rank, the largest first.
    public var uncommittedHoldings: [(sequence: SequenceID, byteCount: Int)] {
        sequenceCaches.withLock { Array($0.values) }.compactMap { sequence in
            let committed = sequence.core.withLock(\.committed)
            let byteCount = zip(sequence.layers, sequence.model.panels).reduce(0) { sum, layer in
                let tokens = localLength(layer.0.state.withLock(\.length)) - localLength(committed)
                return sum + tokens * layer.1.rowByteCount
            }
            return byteCount > 0 ? (sequence.id, byteCount) : nil
        }.sorted { ($1.byteCount, $0.sequence) < ($0.byteCount, $1.sequence) }
    }
}
