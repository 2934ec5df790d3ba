internal import DCPAttention
internal import DCPCore
internal import DCPStore
internal import Synchronization

extension ShardCache {
    /// Brings the tail of a sequence into RAM at its first use after a start.
    /// - Returns: the state of the sequence, which is open.
    @discardableResult
    func prepare(_ sequence: SequenceCache) throws(ServiceError) -> SequenceCache.Core {
        try sequence.core.withLock { core throws(ServiceError) in
            guard !core.isClosed else { throw unknown(sequence.id) }
            if !core.isTailLoaded {
                try loadTail(sequence, &core)
                core.isTailLoaded = true
            }
            return core
        }
    }

    private func loadTail(_ sequence: SequenceCache, _ core: inout SequenceCache.Core) throws(ServiceError) {
        let layout = sequence.model.tail
        let local = localLength(core.committed)
        let first = local / blockTokens * blockTokens
        guard first < local else { return }
        // A missing block has left the index short; then nothing past it can be placed.
        if let damage = core.damage, damage.localIndex < first { return }
        guard let rows = rowLineages.withLock({ $0[sequence.id] }) else { throw unknown(sequence.id) }
        let blocks = layout.panels.map { MemoryBlock($0, .zeros, pool: memory) }
        try mapping { () throws(StoreError) in
            let read = try environment.beginRead(isPrivileged: true)
            for (writer, index) in rows.places {
                let key = TailRecord.key(writer: writer, localIndex: index)
                let isGood = try read.withValue(tables.tail, key) { value in
                    guard let row = TailRecord.rows(key: key, value, layout: layout) else { return false }
                    for (layer, block) in blocks.enumerated() {
                        let panels = layout.panels[layer]
                        _ = panels.write(
                            panels.rows(of: row + layout.offsets[layer]), rowTokens: [0], into: block.address,
                            at: index - first)
                    }
                    return true
                }
                guard isGood == true else {
                    let position = cluster.layout.position(ofLocalIndex: index, rank: contextRank)
                    core.markDamaged(
                        fromLocalIndex: index,
                        "The row of token \(position) of \(sequence.id) in the store of \(rank) is missing or fails its "
                            + "checksum")
                    return
                }
            }
        }
        for (layer, block) in zip(sequence.layers, blocks) { layer.state.withLock { $0.memory = [block] } }
    }

    /// Refuses lengths that reach into what was found damaged.
    func checkIntact(_ core: SequenceCache.Core, localLength: Int) throws(ServiceError) {
        guard let damage = core.damage, localLength > damage.localIndex else { return }
        let position = cluster.layout.position(ofLocalIndex: damage.localIndex, rank: contextRank)
        throw fail(
            .storeDamaged, "\(damage.message); truncate the sequence to \(position) tokens and prefill the rest.")
    }

    /// Reads a sealed block of a sequence completely and compares its checksums.
    func checkBlock(
        _ sequence: SequenceCache, layer: Int, index: Int, address: BlockAddress, lineage: Lineage?
    ) throws(ServiceError) {
        if let writer = lineage?.writer(ofBlock: index) {
            let key = BlockKey(model: sequence.model.id, writer: writer, layer: layer, index: index)
            let panels = sequence.model.panels[layer]
            if let payload = address.payload {
                if BlockRecord.isIntact(key, payload: payload, panels: panels) { return }
            } else if try assemble(key, panels, mayBeKept: false) != nil {
                return
            }
        }
        throw damagedBlock(index, layer: layer, of: sequence.id)
    }

    func damagedBlock(_ index: Int, layer: Int, of id: SequenceID) -> ServiceError {
        fail(
            .storeDamaged,
            "Block \(index) of layer \(layer) of \(id) in the store of \(rank) fails its checksum, or a part of it is missing"
        )
    }
}
