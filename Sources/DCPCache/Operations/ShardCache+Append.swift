// SPDX-License-Identifier: Apache-2.0

public import DCPAttention
public import DCPCore
internal import Synchronization

extension ShardCache {
    /// Appends a step's tokens to one layer, in RAM. Keeps those that this rank owns; the layer's length grows by all.
    ///
    /// - Parameters:
    ///   - position: of the first; must be the layer's length.
    ///   - rows: keys and values of a whole step, for the KV heads of the group.
    ///   - tokens: which of the step's tokens these are.
    /// - Throws: `.positionMismatch`; `.invalidRequest` for a value that is not finite in the cache format, the length is
    ///   then unchanged; `.overloaded` when there is no room in RAM at the moment; `.notReady` during a truncation;
    ///   `.unknownSequence`, `.storeDamaged`.
    public func append(
        sequence id: SequenceID, layer: Int, position: Position, rows: KeyValueRows, tokens: Range<Int>
    ) throws(ServiceError) {
        guard try appendIfRoom(sequence: id, layer: layer, position: position, rows: rows, tokens: tokens) else {
            throw crowded
        }
    }

    /// As `append`, but for the room: while blocks are spilled, who finds none calls `whenRoom`.
    /// - Returns: false, with nothing changed, when there is no room in RAM at the moment.
    public func appendIfRoom(
        sequence id: SequenceID, layer: Int, position: Position, rows: KeyValueRows, tokens: Range<Int>
    ) throws(ServiceError) -> Bool {
        guard tokens.lowerBound >= 0, tokens.upperBound <= rows.tokens, position >= Position(0) else {
            throw fail(
                .invalidRequest,
                "Tokens \(tokens.lowerBound)..<\(tokens.upperBound) at position \(position) are outside the step's "
                    + "\(rows.tokens) tokens.")
        }
        // Of the step's tokens: its first is at `position - tokens.lowerBound`.
        return try append(id, layer, position..<position + tokens.count, rows) { local in
            shard.offsets(of: local, from: position.advanced(by: -tokens.lowerBound))
        }
    }

    /// The same with rows of this rank's tokens alone.
    ///
    /// - Parameters:
    ///   - positions: of all tokens of the append.
    ///   - rows: keys and values of those that this rank owns, perhaps behind others of the same step.
    ///   - first: the row of the first of them.
    /// - Returns: false, with nothing changed, when there is no room in RAM at the moment.
    public func appendIfRoom(
        sequence id: SequenceID, layer: Int, positions: Range<Position>, owned rows: KeyValueRows, from first: Int
    ) throws(ServiceError) -> Bool {
        let count = shard.range(of: positions).count
        guard first >= 0, first + count <= rows.tokens else {
            throw fail(
                .invalidRequest,
                "The \(count) tokens that \(rank) owns of positions "
                    + "\(positions.lowerBound)..<\(positions.upperBound) are not among the step's \(rows.tokens) "
                    + "rows from row \(first) on.")
        }
        return try append(id, layer, positions, rows) { _ in Array(UInt32(first)..<UInt32(first + count)) }
    }

    /// - Parameter sources: the rows of local tokens.
    /// - Returns: false, with nothing changed, when there is no room in RAM at the moment.
    private func append(
        _ id: SequenceID, _ layer: Int, _ positions: Range<Position>, _ rows: KeyValueRows,
        sources: (_ local: Range<LocalIndex>) -> [UInt32]
    ) throws(ServiceError) -> Bool {
        let sequence = try sequence(id)
        try checkLayer(layer, of: sequence)
        let core = try prepare(sequence)
        let (position, end) = (positions.lowerBound, positions.upperBound)
        let local = shard.range(of: positions)
        try checkIntact(core, upTo: local.upperBound)
        let byteCount = local.count * sequence.model.panels[layer].keptByteCount
        guard try takesRoom(byteCount, sequence, end: end) else { return false }
        do throws(ServiceError) {
            let sources = sources(local)
            try core.layers[layer].state.withLock { state throws(ServiceError) in
                try checkAppend(id, layer, position, state)
                try write(rows, sources, at: local, &state, sequence.model.panels[layer])
                state.length = end
            }
        } catch {
            uncommitted.add(-byteCount)
            throw error
        }
        if shard.block(of: local.upperBound).block > shard.block(of: local.lowerBound).block {
            spills.withLock { $0.note(id) }
        }
        spillIfCrowded()
        relieveMemory()
        return true
    }

    func checkLayer(_ layer: Int, of sequence: SequenceCache) throws(ServiceError) {
        guard sequence.model.panels.indices.contains(layer) else {
            throw fail(
                .invalidRequest,
                "Layer \(layer) is outside the \(sequence.model.layers) layers of \(sequence.model.name).")
        }
    }

    private func checkAppend(
        _ id: SequenceID, _ layer: Int, _ position: Position, _ state: LayerState
    ) throws(ServiceError) {
        guard !state.isClosed else { throw unknown(id) }
        guard !state.isFrozen else { throw fail(.notReady, "\(id) is being truncated on \(rank); retry.") }
        guard position == state.length else {
            throw fail(
                .positionMismatch,
                "Layer \(layer) of \(id) has \(state.length) tokens on \(rank), but the step starts at position "
                    + "\(position); continue at \(state.length), or rewind.")
        }
    }

    /// Writes rows to local tokens, in new blocks where needed. With the layer's mutex held.
    private func write(
        _ rows: KeyValueRows, _ sources: [UInt32], at local: Range<LocalIndex>, _ state: inout LayerState,
        _ panels: PanelLayout
    ) throws(ServiceError) {
        var next = local.lowerBound
        while next < local.upperBound {
            let (block, offset) = shard.block(of: next)
            let count = min(blockTokens - offset, local.upperBound - next)
            let isWhole = count == blockTokens
            if block - state.mapped.count == state.memory.count {
                state.memory.append(MemoryBlock(panels, isWhole ? .unspecified : .zeros, pool: memory))
            }
            let open = state.memory[block - state.mapped.count]
            if open.isBorrowed {
                state.memory[block - state.mapped.count] = MemoryBlock(
                    copying: open.address, tokens: offset, panels, pool: memory)
            }
            let target = state.memory[block - state.mapped.count]
            let start = next - local.lowerBound
            // A block that fills at once is sealed next, not read.
            let isFinite = sources.withUnsafeBufferPointer {
                panels.write(
                    rows, rowTokens: UnsafeBufferPointer(rebasing: $0[start..<start + count]), into: target.address,
                    at: offset, isReadSoon: !isWhole)
            }
            guard isFinite else {
                state.dropMemory(from: local.lowerBound, of: shard, panels, pool: memory)
                throw fail(
                    .invalidRequest,
                    "A key or value of the step is not finite in \(panels.format.name); check the model's output.")
            }
            next += count
        }
    }
}
