// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCore
internal import DCPStore
internal import Synchronization

/// Bringing sequences into RAM at their first use, and giving up what is idle.
extension ShardCache {
    /// Brings a sequence into RAM.
    /// - Returns: its state, which is open and resident.
    @discardableResult
    func prepare(_ sequence: SequenceCache) throws(ServiceError) -> SequenceCache.Core {
        let (core, isNew) = try sequence.core.withLock { core throws(ServiceError) in
            guard !core.isClosed else { throw unknown(sequence.id) }
            core.lastUse = useCounter.add(1, ordering: .relaxed).newValue
            let isNew = core.residence == nil
            if isNew { try bringIn(sequence, &core) }
            return (core, isNew)
        }
        if isNew { relieveMemory() }
        return core
    }

    private func bringIn(_ sequence: SequenceCache, _ core: inout SequenceCache.Core) throws(ServiceError) {
        guard let lineage = lineages.withLock({ $0[sequence.id] }), let rows = rowLineages.withLock({ $0[sequence.id] })
        else { throw unknown(sequence.id) }
        let layers: [LayerState]
        do throws(StoreError) {
            let read = try environment.beginRead(isPrivileged: true)
            let addresses = try addresses(of: lineage, sequence, &core, read)
            let open = try openBlocks(of: sequence, rows, &core, read)
            layers = addresses.enumerated().map { layer, addresses in
                LayerState(
                    length: core.committed, mapped: addresses, stored: addresses.count,
                    memory: open.isEmpty ? [] : [open[layer]],
                    verified: core.verified[layer].clamped(to: addresses.indices), generation: core.generation)
            }
        } catch {
            throw ServiceError(error, rank: rank)
        }
        core.residence = Residence(layers, blocks: lineage.sealedBlocks, account: indexes)
        residents.withLock { _ = $0.insert(sequence.id) }
    }

    /// Where the sealed blocks are, in each layer, up to the first that is missing.
    private func addresses(
        of lineage: Lineage, _ sequence: SequenceCache, _ core: inout SequenceCache.Core,
        _ read: borrowing ReadTransaction
    ) throws(StoreError) -> [[BlockAddress]] {
        var all: [[BlockAddress]] = []
        for layer in 0..<sequence.model.layers {
            var addresses: [BlockAddress] = []
            addresses.reserveCapacity(lineage.sealedBlocks)
            for (writer, blocks) in lineage.ranges {
                let byteCount = sequence.model.blockByteCounts[layer]
                let first = BlockKey(model: sequence.model.id, writer: writer, layer: layer, index: blocks.lowerBound)
                try read.scan(tables.blocks, from: first.bytes) { bytes, value in
                    guard addresses.count < blocks.upperBound, let key = BlockKey(bytes), key.writer == writer,
                        key.layer == layer,
                        key.index <= addresses.count
                    else { return false }
                    // Further pieces of the one before.
                    if key.index < addresses.count { return true }
                    let isPiece = BlockKey.piece(bytes) != nil
                    guard let address = isPiece ? .inPieces : BlockAddress(value, byteCount: byteCount) else {
                        return false
                    }
                    addresses.append(address)
                    return true
                }
                guard addresses.count == blocks.upperBound else { break }
            }
            if addresses.count < lineage.sealedBlocks {
                core.markMissing(block: addresses.count, layer: layer, of: sequence.id, in: shard, on: rank)
            }
            all.append(addresses)
        }
        return all
    }

    /// The open block of each layer from the rows in the store; none without rows.
    private func openBlocks(
        of sequence: SequenceCache, _ rows: Lineage, _ core: inout SequenceCache.Core, _ read: borrowing ReadTransaction
    ) throws(StoreError) -> [MemoryBlock] {
        // A missing block has left the index short; then nothing past it can be placed.
        guard rows.rowStart < rows.rowEnd, core.damage.map({ $0.start >= rows.rowStart }) ?? true else {
            return []
        }
        let layout = sequence.model.tail
        let blocks = layout.panels.map { MemoryBlock($0, .zeros, pool: memory) }
        for (writer, index) in rows.rowPlaces {
            let key = TailRecord.key(writer: writer, localIndex: index)
            let isGood = try read.withValue(tables.tail, key) { value in
                guard let row = TailRecord.rows(key: key, value, layout: layout) else { return false }
                let token = index - rows.rowStart
                for (layer, block) in blocks.enumerated() {
                    layout.panels[layer].put(row + layout.offsets[layer], into: block.address, at: token..<token + 1)
                }
                return true
            }
            guard isGood == true else {
                let position = shard.position(of: index)
                core.markDamaged(
                    from: index,
                    "The row of token \(position) of \(sequence.id) in the store of \(rank) is missing or fails its "
                        + "checksum")
                break
            }
        }
        return blocks
    }

    // MARK: Giving up

    /// Drops fully committed sequences that were not used since the last call from RAM.
    ///
    /// Blocks found intact stay marked. Any thread may call it; the writer's thread executes it.
    public func releaseIdle() {
        let mark = idleMark.exchange(useCounter.load(ordering: .relaxed), ordering: .relaxed)
        guard residents.withLock({ !$0.isEmpty }) else { return }
        release { $0 <= mark }
    }

    /// Gives up RAM beyond the limit, of what was used the longest ago first.
    func relieveMemory() {
        // When all that is left is in use it is not looked for more before there is a sixteenth more.
        guard let limit = settings.memoryByteCountMax,
            residentByteCount > max(limit, reliefMark.load(ordering: .relaxed) + limit / 16),
            !isRelieving.exchange(true, ordering: .relaxed)
        else { return }
        release { [self] _ in residentByteCount > limit }
    }

    /// A commit may have made as much as the sequence's open blocks droppable, beyond the limit in use until then.
    func noteDroppable(_ sequence: SequenceCache) {
        guard settings.memoryByteCountMax != nil, reliefMark.load(ordering: .relaxed) > 0 else { return }
        reliefMark.subtract(sequence.model.blockByteCounts.reduce(0, +), ordering: .relaxed)
    }

    /// Bytes of open blocks, of blocks that are not committed, and of where sealed ones are.
    var residentByteCount: Int { memory.account.value + indexes.value }

    /// - Parameter wants: asked of each, the one that was used the longest ago first.
    private func release(_ wants: @escaping @Sendable (_ lastUse: UInt64) -> Bool) {
        // A job of the writer's, which writes nothing: none is between its body and its apply then, and these go by what is
        // resident.
        writer.submitInternal(
            WriteJob(isAlone: true, body: { _ in }) { [self] result in
                defer { isRelieving.store(false, ordering: .relaxed) }
                // Else on any thread, while the writer may be anywhere.
                guard case .success = result else { return }
                let caches = sequenceCaches.withLock { $0 }
                let resident = residents.withLock { $0 }.compactMap { caches[$0] }.map {
                    ($0, $0.core.withLock(\.lastUse))
                }
                for (sequence, lastUse) in resident.sorted(by: { $0.1 < $1.1 }) where wants(lastUse) {
                    release(sequence, lastUse: lastUse)
                }
                let isBeyond = residentByteCount > settings.memoryByteCountMax ?? .max
                reliefMark.store(isBeyond ? residentByteCount : 0, ordering: .relaxed)
            })
    }

    private func release(_ sequence: SequenceCache, lastUse: UInt64) {
        let sealed = lineages.withLock { $0[sequence.id]?.sealedBlocks }
        sequence.core.withLock { core in
            // A holder of a reference is about to use it.
            guard core.lastUse == lastUse, !core.isClosed, core.floor == core.committed,
                isKnownUniquelyReferenced(&core.residence)
            else { return }
            var verified: [Range<Int>] = []
            var generation = core.generation
            for layer in core.layers {
                let isIdle = layer.state.withLock { state in
                    verified.append(state.verified.clamped(to: 0..<(sealed ?? 0)))
                    generation = max(generation, state.generation)
                    return state.length == core.committed && state.mapped.count == sealed && !state.isFrozen
                }
                guard isIdle else { return }
            }
            (core.verified, core.generation) = (VerifiedBlocks(verified), generation)
            core.residence = nil
            residents.withLock { _ = $0.remove(sequence.id) }
        }
    }
}
