internal import DCPAttention
public import DCPCore
internal import Synchronization

/// Keys and values read back out of the cache, for the KV heads of the group, in the KV dtype.
public struct StoredRows: Sendable {
    /// Changes whenever the sequence is cut: rows of one generation are of one sequence. Counted from the rank's start.
    public var generation: UInt64
    /// The owned tokens among those that were asked for, by rising position.
    public var tokens: Int
    /// `[tokens][kvHeads][Dk]`
    public var keys: [UInt8]
    /// `[tokens][kvHeads][Dv]`
    public var values: [UInt8]
}

extension ShardCache {
    /// Bytes of keys and values that `rows` would return for some global positions of a layer.
    /// - Throws: `.unknownSequence`, `.storeDamaged` for a damaged record, `.invalidRequest` for a layer that is not there.
    public func rowsByteCount(sequence id: SequenceID, layer: Int, positions: Range<Int>) throws(ServiceError) -> Int {
        let sequence = try sequence(id)
        try checkLayer(layer, of: sequence)
        let local = cluster.layout.localRange(
            ofRank: contextRank, from: positions.lowerBound, to: positions.upperBound)
        return local.count * sequence.model.panels[layer].rowByteCount
    }

    /// This rank's keys and values of committed tokens of one layer, bit by bit as they are attended to.
    ///
    /// Their blocks' checksums are compared, once after a start.
    /// - Parameter goesOn: called after each piece of these.
    /// - Throws: `.positionMismatch` above the committed length; `.storeDamaged`, `.unknownSequence`, `.overloaded`.
    public func rows(
        sequence id: SequenceID, layer: Int, positions: Range<Int>, goesOn: () -> Void = {}
    ) throws(ServiceError) -> StoredRows {
        let sequence = try sequence(id)
        try checkLayer(layer, of: sequence)
        let panels = sequence.model.panels[layer]
        while true {
            let before = sequence.layers[layer].state.withLock { $0.generation }
            let core = try prepare(sequence)
            guard positions.upperBound <= core.committed else {
                throw fail(
                    .positionMismatch,
                    "\(id) has \(core.committed) committed tokens on \(rank); positions \(positions.lowerBound)..<"
                        + "\(positions.upperBound) cannot be read.")
            }
            let context = try contexts([(id, positions)], layer: layer, goesOn: goesOn)[0]
            // Cut and grown again since: the reader may be of either.
            guard sequence.layers[layer].state.withLock({ $0.generation }) == before else { continue }
            let first = localLength(positions.lowerBound) - context.firstIndex
            let local = min(first, context.tokens)..<context.tokens
            return StoredRows(context, local, panels, generation: UInt64(before))
        }
    }
}

extension StoredRows {
    fileprivate init(_ context: ContextReader, _ local: Range<Int>, _ panels: PanelLayout, generation: UInt64) {
        self.generation = generation
        tokens = local.count
        let keyByteCount = panels.kvHeads * panels.keyDim * panels.dataType.byteCount
        let valueByteCount = panels.rowByteCount - keyByteCount
        keys = [UInt8](repeating: 0, count: local.count * keyByteCount)
        values = [UInt8](repeating: 0, count: local.count * valueByteCount)
        let row = UnsafeMutableRawBufferPointer.allocate(byteCount: panels.rowByteCount, alignment: 16)
        defer { row.deallocate() }
        guard let base = row.baseAddress else { return }
        for (number, index) in local.enumerated() {
            let block = context.blocks[index / panels.blockTokens]
            panels.read(token: index % panels.blockTokens, of: block, into: base)
            keys.withUnsafeMutableBytes {
                UnsafeMutableRawBufferPointer(rebasing: $0[(number * keyByteCount)...])
                    .copyMemory(from: UnsafeRawBufferPointer(start: base, count: keyByteCount))
            }
            values.withUnsafeMutableBytes {
                UnsafeMutableRawBufferPointer(rebasing: $0[(number * valueByteCount)...])
                    .copyMemory(from: UnsafeRawBufferPointer(start: base + keyByteCount, count: valueByteCount))
            }
        }
    }
}
