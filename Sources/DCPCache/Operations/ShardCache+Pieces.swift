// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCore
internal import DCPStore
internal import Synchronization

/// Blocks that found no run of pages and are in the store in pieces.
extension ShardCache {
    // MARK: Reading

    /// A block, whole or in pieces, in RAM and checked; nil when it is not there or not intact.
    ///
    /// In a read transaction of its own: that of a step may have begun before the block was in pieces.
    /// - Parameter mayBeKept: beyond the step that needs it, as far as there is room for that.
    func assemble(
        _ key: BlockKey, _ panels: PanelLayout, mayBeKept: Bool, isPrivileged: Bool = false
    ) throws(ServiceError) -> AssembledBlock? {
        let byteCount = BlockRecord.byteCount(panels, pageByteCount: environment.pageByteCount)
        let block = try mapping { () throws(StoreError) -> MemoryBlock?? in
            let read = try environment.beginRead(isPrivileged: isPrivileged)
            return try read.withValue(tables.blocks, key.bytes) { value in
                BlockRecord.intactPayload(key, value, byteCount: byteCount, panels: panels).map {
                    MemoryBlock(copying: $0, tokens: panels.blockTokens, panels, pool: memory)
                }
            }
        }
        return block.flatMap { $0 }.map { assembled($0, panels, mayBeKept: mayBeKept) }
    }

    /// The first come are kept, so that a context beyond the limit does not push itself out.
    func assembled(_ block: MemoryBlock, _ panels: PanelLayout, mayBeKept: Bool) -> AssembledBlock {
        AssembledBlock(
            block, panels, budget: mayBeKept ? (keptPieces, settings.assembledByteCountMax) : nil,
            borrowed: borrowedPieces)
    }

    /// Puts blocks of a layer together for a step, and keeps them for later ones as far as there is room for that.
    /// - Parameters:
    ///   - generation: of the layer, when their indices were looked up.
    ///   - hasBegun: whether the step has put blocks together before, for another sequence. It is not refused halfway.
    /// - Returns: fewer when the sequence has been cut since.
    func assemble(
        _ sequence: SequenceCache, layer: Int, _ indices: [Int], generation: Int, hasBegun: inout Bool
    ) throws(ServiceError) -> [Int: AssembledBlock] {
        guard hasBegun || borrowedPieces.value <= settings.assembledByteCountMax else {
            throw fail(
                .overloaded,
                "Other steps on \(rank) have assembled \(borrowedPieces.value) bytes of blocks that its store holds "
                    + "in pieces, and the limit for another is \(settings.assembledByteCountMax); retry.")
        }
        hasBegun = true
        let panels = sequence.model.panels[layer]
        let lineage = lineages.withLock { $0[sequence.id] }
        var blocks: [Int: AssembledBlock] = [:]
        var failed: Int?
        for index in indices {
            guard let writer = lineage?.writer(ofBlock: index),
                let block = try assemble(
                    BlockKey(model: sequence.model.id, writer: writer, layer: layer, index: index), panels,
                    mayBeKept: true)
            else {
                failed = index
                break
            }
            blocks[index] = block
        }
        let isCurrent = try prepare(sequence).layers[layer].state.withLock { state in
            guard state.generation == generation else { return false }
            for (index, block) in blocks where block.isKept && state.mapped[index].payload == nil {
                state.assembled[index] = block
            }
            return true
        }
        // As of a check: when the generation is current, the lineage was that of the blocks.
        if isCurrent, let failed {
            let start = shard.start(ofBlock: failed)
            sequence.markDamaged(from: start, damagedBlock(failed, layer: layer, of: sequence.id).message)
            try checkIntact(sequence.core.withLock { $0 }, upTo: start + 1)
        }
        return blocks
    }

    // MARK: Making them whole

    /// Some blocks may have been dropped, in a transaction that has committed. Writer's thread.
    func forgetDroppedPieces() {
        pieced.withLock { pieced in
            guard pieced.count > 0 else { return }
            lineages.withLock { lineages in
                pieced.remove { !lineages.isCovered(writer: $0.key.writer, block: $0.key.index) }
            }
        }
    }

    /// Makes blocks whole, a few in each transaction and others between, until none is left or no run is as long. The
    /// reserve is not for this, and a failure is tried again when something has been freed.
    func healPieces() {
        guard let batch = pieced.withLock({ $0.next() }) else { return }
        let damaged = Handoff<Set<BlockKey>>([])
        enqueue([], isAlone: true, isInternal: true, isOptional: true) { [self] result in
            let isDone = (try? result.get()) != nil
            let transactions = writer.transactionsCommitted
            pieced.withLock { $0.end(batch, damaged: isDone ? damaged.value : nil, transactions: transactions) }
            healPieces()
        } body: { [self] transaction in
            damaged.value = []
            for block in batch where isCovered(block) {
                if try !heal(block.key, &transaction) { damaged.value.insert(block.key) }
            }
        } apply: { [self] in
            for block in batch where isCovered(block) && !damaged.value.contains(block.key) { index(block.key) }
        }
    }

    private func isCovered(_ block: PiecedBlocks.Block) -> Bool {
        lineages.withLock { $0.isCovered(writer: block.key.writer, block: block.key.index) }
    }

    /// Writes a block as one value in the place of its pieces. They are in no index: who reads them looks them up.
    /// - Returns: false for one that is damaged: that is found where it is used.
    private func heal(_ key: BlockKey, _ transaction: inout WriteTransaction) throws -> Bool {
        guard let panels = modelEntries.withLock({ $0[key.model] })?.panels[key.layer] else { return false }
        let byteCount = BlockRecord.byteCount(panels, pageByteCount: environment.pageByteCount)
        let stored = try transaction.withValue(tables.blocks, key.bytes) { value -> [UInt8]? in
            let payload = BlockRecord.intactPayload(key, value, byteCount: byteCount, panels: panels)
            return payload == nil ? nil : Array(value)
        }
        guard let value = stored.flatMap({ $0 }) else { return false }
        try transaction.put(tables.blocks, key.bytes, value)
        try transaction.removePieces(tables.blocks, key.bytes)
        return true
    }

    /// Puts the address of a block that was made whole where it was in pieces: in all sequences that share it.
    private func index(_ key: BlockKey) {
        guard let model = modelEntries.withLock({ $0[key.model] }),
            let read = try? environment.beginRead(isPrivileged: true),
            let value = try? read.get(tables.blocks, key.bytes),
            let address = BlockAddress(value, byteCount: model.blockByteCounts[key.layer])
        else { return }
        let users = lineages.withLock { $0.users[key.writer] ?? [:] }.filter { $0.value.contains(key.index) }
        for sequence in sequenceCaches.withLock({ caches in users.keys.compactMap { caches[$0] } }) {
            // With the core's: who brings the sequence into RAM at this moment may have seen the pieces.
            sequence.core.withLock { core in
                guard let residence = core.residence else { return }
                residence.layers[key.layer].state.withLock { state in
                    guard key.index < state.mapped.count else { return }
                    state.mapped[key.index] = address
                    state.assembled[key.index] = nil
                }
            }
        }
    }
}
