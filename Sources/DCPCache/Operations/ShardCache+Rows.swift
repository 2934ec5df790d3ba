// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
public import DCPCore
internal import Synchronization

/// Keys and values read back from the cache, for the KV heads of the group, in the cache format.
public struct StoredRows: Hashable, Sendable {
    /// Changes whenever the sequence is cut: rows of one generation are of one sequence. Counted from the rank's start.
    public var generation: UInt64
    /// The owned tokens among those that were asked for, by rising position.
    public var tokens: Int
}

extension ShardCache {
    /// Bytes of keys and values that `rows` reads for some positions of a layer.
    /// - Throws: `.unknownSequence`, `.storeDamaged` for a damaged record, `.invalidRequest` for a layer that is not there.
    public func rowsByteCount(
        sequence id: SequenceID, layer: Int, positions: Range<Position>
    ) throws(ServiceError) -> Int {
        let sequence = try sequence(id)
        try checkLayer(layer, of: sequence)
        return shard.range(of: positions).count * sequence.model.panels[layer].rowByteCount
    }

    /// Reads this rank's keys and values of committed tokens of one layer, bit by bit as they are attended to.
    ///
    /// Their blocks' checksums are compared, once after a start.
    /// - Parameters:
    ///   - bytes: `rowsByteCount` of them: for the keys, `[tokens][kvHeads][Dk]`, and then the values, `[tokens][kvHeads][Dv]`.
    ///     Not initialised before.
    ///   - goesOn: called after each piece of blocks that was checked.
    /// - Throws: `.positionMismatch` above the committed length; `.storeDamaged`, `.unknownSequence`, `.overloaded`.
    public func rows(
        sequence id: SequenceID, layer: Int, positions: Range<Position>, into bytes: UnsafeMutableRawBufferPointer,
        goesOn: () -> Void = {}
    ) throws(ServiceError) -> StoredRows {
        let sequence = try sequence(id)
        try checkLayer(layer, of: sequence)
        while true {
            let before = try prepare(sequence).layers[layer].state.withLock { $0.generation }
            let core = try prepare(sequence)
            guard positions.upperBound <= core.committed else {
                throw fail(
                    .positionMismatch,
                    "\(id) has \(core.committed) committed tokens on \(rank); positions \(positions.lowerBound)..<"
                        + "\(positions.upperBound) cannot be read.")
            }
            let context = try contexts([(id, positions)], layer: layer, goesOn: goesOn)[0]
            // Cut and grown again since: the reader may be of either.
            guard try prepare(sequence).layers[layer].state.withLock({ $0.generation }) == before else { continue }
            let first = shard.end(of: positions.lowerBound) - context.firstIndex
            let local = min(first, context.tokens)..<context.tokens
            context.read(local, into: bytes)
            return StoredRows(generation: UInt64(before), tokens: local.count)
        }
    }
}

extension ContextReader {
    /// Reads some of its tokens, numbered from its first block on, back into rows: all keys, then all values.
    fileprivate func read(_ tokens: Range<Int>, into bytes: UnsafeMutableRawBufferPointer) {
        precondition(bytes.count == tokens.count * layout.rowByteCount)
        guard let base = bytes.baseAddress else { return }
        let keyByteCount = layout.kvHeads * layout.keyDim * layout.format.rowType.byteCount
        let valueByteCount = layout.rowByteCount - keyByteCount
        var keys = base
        var values = base + tokens.count * keyByteCount
        var token = tokens.lowerBound
        while token < tokens.upperBound {
            let (block, first) = token.quotientAndRemainder(dividingBy: layout.blockTokens)
            let count = min(layout.blockTokens - first, tokens.upperBound - token)
            layout.read(tokens: first..<first + count, of: blocks[block], keys: keys, values: values)
            keys += count * keyByteCount
            values += count * valueByteCount
            token += count
        }
    }
}
