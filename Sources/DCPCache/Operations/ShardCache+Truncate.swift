// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
public import DCPCore
internal import DCPStore
internal import Synchronization

extension ShardCache {
    private struct Truncation {
        var sequence: SequenceCache
        var committed: Position
        var length: Position
        /// Each layer as it was.
        var layers: [LayerState]
        /// As they were.
        var lineage: Lineage
        var rows: Lineage
        var change: UInt64 = 0
        /// As it will be.
        var tokens: TokenRecord
        var rest = Doomed()
    }

    /// Cuts a sequence to a length and drops all its uncommitted tokens.
    ///
    /// A sealed block that the cut goes through becomes the open block again. Readers that hold it keep it. Repeating a
    /// truncation succeeds.
    /// - Parameter completion: `.invalidRequest` above the committed length; `.storeDamaged` when the cut is behind, or
    ///   goes through, something damaged; `.unknownSequence`, `.storeFull`.
    public func truncate(_ id: SequenceID, length: Position, completion: @escaping CacheCompletion) {
        let plan = Handoff<Truncation?>(nil)
        // Synced: a rank that lost the cut with its power would come back with the tokens that others have replaced.
        enqueue([Self.key(id)], isFreeing: true, isSynced: true, completion) { [self] transaction in
            let sequence = try sequence(id)
            let core = try prepare(sequence)
            guard (Position(0)...core.committed).contains(length) else {
                throw fail(
                    .invalidRequest,
                    "\(id) has \(core.committed) committed tokens on \(rank) and cannot be truncated to \(length).")
            }
            try checkIntact(core, upTo: shard.end(of: length))
            if length == core.committed { return try dropUncommitted(sequence, to: length) }
            try truncate(sequence, from: core.committed, to: length, plan, &transaction)
        } undo: { [self] in
            guard let truncation = plan.value else { return }
            lineages.withLock { $0[id] = truncation.lineage }
            rowLineages.withLock { $0[id] = truncation.rows }
            for (layer, saved) in zip(truncation.sequence.layers, truncation.layers) {
                layer.state.withLock { $0.restore(saved) }
            }
            plan.value = nil
        } apply: { [self] in
            guard let truncation = plan.value else { return }
            FailPoint.truncateAfter.pass()
            plan.value = nil
            finish(truncation)
        }
    }

    private func truncate(
        _ sequence: SequenceCache, from committed: Position, to length: Position, _ plan: Handoff<Truncation?>,
        _ transaction: inout WriteTransaction
    ) throws {
        guard let lineage = lineages.withLock({ $0[sequence.id] }),
            let formerRows = rowLineages.withLock({ $0[sequence.id] })
        else { throw unknown(sequence.id) }
        let new = shard.end(of: length)
        let kept = shard.fullBlocks(of: length)
        // Copies, also of an open block: until the commit the old blocks must stay as they are.
        let copies = try straddlingBlocks(sequence, lineage: lineage, at: new)
        var replacement = lineage
        if kept < lineage.sealedBlocks { replacement = lineage.cut(to: kept, writer: try takeWriter(&transaction)) }
        // Of rows and ids: what was cut off may live on in a fork.
        let writer = try takeWriter(&transaction)
        let tokens = try cutTokens(of: sequence.id, to: length, writer: writer, &transaction)
        // Addresses leave the index before the transaction that deletes their blocks commits: see ContextReader.
        let saved = sequence.layers.enumerated().map { index, layer in
            layer.state.withLock { state in
                let saved = state
                state.length = length
                state.dropSealed(from: kept)
                state.stored = min(state.stored, kept)
                state.memory = copies.isEmpty ? [] : [copies[index]]
                state.verified = state.verified.clamped(to: 0..<state.mapped.count)
                state.generation += 1
                state.isFrozen = true
                return saved
            }
        }
        plan.value = Truncation(
            sequence: sequence, committed: committed, length: length, layers: saved, lineage: lineage, rows: formerRows,
            tokens: tokens)
        var rows = formerRows.cut(to: new, writer: writer)
        let start = shard.start(ofBlock: kept)
        if rows.rowStart != start { rows = Lineage(writer: writer, from: start) }
        try putRows(
            rows.rowEnd..<new, of: sequence, blocks: copies.map { .memory($0) }, behind: &rows, &transaction)
        plan.value?.rest.rows = try delete(replaceRows(of: sequence, by: rows), &transaction)
        let change = takeChange()
        let claim = sequence.core.withLock { core in
            core.lastChange = change
            return core.claim
        }
        plan.value?.change = change
        let record = StoredSequence(
            sequence, committed: length, lineage: replacement, rows: rows, tokens: tokens, lastChange: change,
            claim: claim)
        try transaction.put(tables.sequences, StoredSequence.key(sequence.id), record.encoded(sequence.id))
        plan.value?.rest.blocks = try delete(replaceLineage(of: sequence, by: replacement), &transaction)
    }

    /// New RAM blocks, one for each layer, with the tokens of the block that the shard is cut in at `end`; none at a
    /// block's edge. Writer thread: nothing else deletes the sealed block meanwhile.
    /// - Parameter borrows: what is in RAM is not copied.
    func straddlingBlocks(
        _ sequence: SequenceCache, lineage: Lineage, at end: LocalIndex, borrows: Bool = false
    ) throws(ServiceError) -> [MemoryBlock] {
        let (index, tokens) = shard.block(of: end)
        guard tokens > 0 else { return [] }
        var copies: [MemoryBlock] = []
        for (number, layer) in sequence.layers.enumerated() {
            let panels = sequence.model.panels[number]
            let source = layer.state.withLock { state -> (sealed: BlockAddress?, memory: MemoryBlock?) in
                guard index >= state.mapped.count else { return (state.mapped[index], nil) }
                let open = state.memory[index - state.mapped.count]
                return (nil, borrows ? MemoryBlock(borrowing: open) : open)
            }
            if let sealed = source.sealed {
                do throws(ServiceError) {
                    copies.append(try copy(sealed, of: sequence, layer: number, index: index, lineage, tokens: tokens))
                } catch {
                    guard error.code == .storeDamaged else { throw error }
                    sequence.markDamaged(from: shard.start(ofBlock: index), error.message)
                    try checkIntact(sequence.core.withLock { $0 }, upTo: end)
                    throw error
                }
            } else if let open = source.memory {
                copies.append(
                    borrows ? open : MemoryBlock(copying: open.address, tokens: tokens, panels, pool: memory))
            }
        }
        return copies
    }

    /// The first tokens of a sealed block, which is checked.
    func copy(
        _ address: BlockAddress, of sequence: SequenceCache, layer: Int, index: Int, _ lineage: Lineage, tokens: Int
    ) throws(ServiceError) -> MemoryBlock {
        let panels = sequence.model.panels[layer]
        if let payload = address.payload {
            try checkBlock(sequence, layer: layer, index: index, address: address, lineage: lineage)
            return MemoryBlock(copying: payload, tokens: tokens, panels, pool: memory)
        }
        guard let writer = lineage.writer(ofBlock: index),
            let block = try assemble(
                BlockKey(model: sequence.model.id, writer: writer, layer: layer, index: index), panels,
                mayBeKept: false, isPrivileged: true)
        else { throw damagedBlock(index, layer: layer, of: sequence.id) }
        return MemoryBlock(copying: block.payload, tokens: tokens, panels, pool: memory)
    }

    private func finish(_ truncation: Truncation) {
        let sequence = truncation.sequence
        stored(truncation.change)
        let committed = shard.end(of: truncation.committed)
        for (number, saved) in truncation.layers.enumerated() {
            releaseUncommitted(
                sequence, layer: number, committed..<shard.end(of: saved.length), sealed: saved.mapped.count)
            sequence.layers[number].state.withLock { $0.isFrozen = false }
        }
        sequence.core.withLock { core in
            core.committed = truncation.length
            core.floor = truncation.length
            core.shared = min(core.shared, truncation.length)
            // The cut was checked to be before it.
            core.damage = nil
            core.residence?.note(blocks: shard.fullBlocks(of: truncation.length))
        }
        tokensTruncated(sequence, truncation.tokens)
        sweepLater(truncation.rest)
        forgetDroppedPieces()
    }
}
