// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCore
internal import DCPStore
internal import Synchronization

/// Full blocks of a sequence on their way from RAM into the store, planned under the locks and written without them.
struct Sealing {
    /// Those of a layer, in a row.
    struct Layer {
        /// The index of the first.
        var first: Int
        /// Leased: a rewind that drops some of them meanwhile does not change them.
        var blocks: [MemoryBlock]
        /// As in `LayerState.stored`.
        var stored: Int

        var indices: Range<Int> { first..<first + blocks.count }
    }

    var sequence: SequenceCache
    /// Covers them once they are written.
    var lineage: Lineage
    var layers: [Layer] = []
    /// Those that found no run of pages.
    var inPieces: Set<BlockKey> = []
    /// As it was, when it covered blocks that a rewind has dropped from all layers.
    var former: Lineage?
    /// Of these, the rest to delete.
    var rest: [DoomedBlocks] = []

    var isEmpty: Bool { layers.allSatisfy(\.blocks.isEmpty) }

    var keys: [BlockKey] {
        layers.enumerated().flatMap { number, layer in layer.indices.compactMap { key(layer: number, index: $0) } }
    }

    func key(layer: Int, index: Int) -> BlockKey? {
        lineage.writer(ofBlock: index).map {
            BlockKey(model: sequence.model.id, writer: $0, layer: layer, index: index)
        }
    }
}

/// Sealing, as a commit, a spill and a fork of uncommitted tokens do it.
extension ShardCache {
    /// A layer's full blocks in RAM up to that of an index. With the layer's mutex held.
    func lease(_ state: LayerState, upTo end: Int) -> Sealing.Layer {
        let blocks = Array(state.memory.prefix(max(end - state.mapped.count, 0)))
        for block in blocks { block.leases.add(1, ordering: .acquiring) }
        return Sealing.Layer(first: state.mapped.count, blocks: blocks, stored: state.stored)
    }

    /// Nothing of it was written, or it has been applied.
    private func endLeases(_ sealing: Sealing) {
        for block in sealing.layers.lazy.flatMap(\.blocks) { block.leases.subtract(1, ordering: .releasing) }
    }

    func undo(_ sealing: Sealing) {
        if let former = sealing.former { lineages.withLock { $0[sealing.sequence.id] = former } }
        endLeases(sealing)
    }

    /// Deletes what rewinds have dropped from all layers, and writes the blocks.
    func write(_ sealing: inout Sealing, _ transaction: inout WriteTransaction) throws {
        try trim(&sealing, &transaction)
        let end = sealing.layers.lazy.filter { !$0.blocks.isEmpty }.map(\.indices.upperBound).max() ?? 0
        if end > sealing.lineage.sealedBlocks, sealing.lineage.isWriterSpent {
            sealing.lineage.renew(try takeWriter(&transaction))
        }
        sealing.lineage.seal(upTo: end)
        for (number, layer) in sealing.layers.enumerated() {
            let panels = sealing.sequence.model.panels[number]
            let byteCount = sealing.sequence.model.blockByteCounts[number]
            for (index, block) in zip(layer.indices, layer.blocks) {
                guard let key = sealing.key(layer: number, index: index) else { continue }
                // Dropped by this layer alone, so nothing has deleted it.
                if index < layer.stored { try transaction.remove(tables.blocks, key.bytes) }
                let payload = UnsafeRawPointer(block.address)
                let isInPieces = try transaction.place(tables.blocks, key.bytes, byteCount: byteCount) {
                    BlockRecord.write(key, payload: payload, panels: panels, into: $0)
                }
                if isInPieces { sealing.inPieces.insert(key) }
            }
        }
    }

    /// Blocks dropped by rewinds may belong to a fork as well, so they are removed from this sequence before anything
    /// takes their place.
    private func trim(_ sealing: inout Sealing, _ transaction: inout WriteTransaction) throws {
        let committed = shard.fullBlocks(of: sealing.sequence.core.withLock(\.committed))
        let sealed = sealing.layers.reduce(committed) { max($0, $1.first) }
        guard sealed < sealing.lineage.sealedBlocks else { return }
        sealing.former = sealing.lineage
        sealing.lineage = sealing.lineage.covering(sealed)
        sealing.lineage.isWriterSpent = true
        for index in sealing.layers.indices { sealing.layers[index].stored = min(sealing.layers[index].stored, sealed) }
        sealing.rest = try delete(replaceLineage(of: sealing.sequence, by: sealing.lineage), &transaction)
    }

    /// Puts the mapped blocks in the place of those in RAM that are still there. Writer's thread.
    func apply(_ sealing: Sealing) throws(StoreError) {
        defer { endLeases(sealing) }
        let sequence = sealing.sequence
        // Before the layers: who finds a sealed block there must find its writer here.
        lineages.withLock { $0[sequence.id] = sealing.lineage }
        for (layer, planned) in zip(sequence.layers, sealing.layers) {
            layer.state.withLock {
                if sealing.former != nil { $0.stored = planned.stored }
                if !planned.blocks.isEmpty { $0.stored = max($0.stored, planned.indices.upperBound) }
            }
        }
        if sealing.former != nil {
            sweepLater(Doomed(blocks: sealing.rest))
            forgetDroppedPieces()
        }
        guard !sealing.isEmpty else { return }
        notePieces(of: sealing)
        let addresses = try addresses(sealing)
        sequence.core.withLock { core in
            let committed = shard.end(of: core.committed)
            var byteCount = 0
            for (number, layer) in sealing.layers.enumerated() where !layer.blocks.isEmpty {
                let tokens = core.layers[number].state.withLock { state in
                    replace(layer, by: addresses[number], &state, sequence.model.panels[number], committed: committed)
                }
                byteCount += tokens * sequence.model.panels[number].keptByteCount
            }
            uncommitted.add(-byteCount)
            spilled.add(byteCount)
        }
    }

    /// - Returns: tokens that are uncommitted and no longer in RAM.
    private func replace(
        _ layer: Sealing.Layer, by addresses: [BlockAddress], _ state: inout LayerState, _ panels: PanelLayout,
        committed: LocalIndex
    ) -> Int {
        guard state.mapped.count == layer.first else { return 0 }
        let count = zip(state.memory, layer.blocks).prefix { $0 === $1 }.count
        let written = layer.indices.prefix(count)
        for (offset, address) in addresses.prefix(count).enumerated() where address.payload == nil {
            let block = assembled(state.memory[offset], panels, mayBeKept: true)
            if block.isKept { state.assembled[layer.first + offset] = block }
        }
        state.noteWritten(written)
        state.mapped += addresses.prefix(count)
        state.memory.removeFirst(count)
        let start = max(shard.start(ofBlock: written.lowerBound), committed)
        return max(shard.start(ofBlock: written.upperBound) - start, 0)
    }

    private func notePieces(of sealing: Sealing) {
        let found = sealing.inPieces.sorted().map { key in
            PiecedBlocks.Block(
                key: key, pages: sealing.sequence.model.blockPages[key.layer],
                pieces: environment.pieces(valueByteCount: sealing.sequence.model.blockByteCounts[key.layer]))
        }
        pieced.withLock { pieced in
            // Earlier values of these keys have been replaced.
            if pieced.count > 0 {
                let replaced = Set(sealing.keys)
                pieced.remove { replaced.contains($0.key) }
            }
            pieced.add(found)
        }
    }

    /// Where they are, when they are written.
    func addresses(_ sealing: Sealing) throws(StoreError) -> [[BlockAddress]] {
        let read = try environment.beginRead(isPrivileged: true)
        var all: [[BlockAddress]] = []
        for (number, layer) in sealing.layers.enumerated() {
            let byteCount = sealing.sequence.model.blockByteCounts[number]
            var addresses: [BlockAddress] = []
            for index in layer.indices {
                guard let key = sealing.key(layer: number, index: index), !sealing.inPieces.contains(key) else {
                    addresses.append(.inPieces)
                    continue
                }
                guard let value = try read.get(tables.blocks, key.bytes),
                    let address = BlockAddress(value, byteCount: byteCount)
                else { throw StoreError(.damaged, "block \(index) of layer \(number) is missing or not aligned") }
                addresses.append(address)
            }
            all.append(addresses)
        }
        return all
    }

    /// The block of rows of the tail, in each layer; none for no rows. Writer's thread.
    func sources(
        of rows: Range<LocalIndex>, _ sequence: SequenceCache, _ lineage: Lineage
    ) throws(ServiceError) -> [BlockSource] {
        guard !rows.isEmpty else { return [] }
        return try sequence.model.panels.indices.map { layer throws(ServiceError) in
            try source(sequence, layer: layer, index: shard.block(of: rows.lowerBound).block, lineage)
        }
    }

    private func source(
        _ sequence: SequenceCache, layer: Int, index: Int, _ lineage: Lineage
    ) throws(ServiceError) -> BlockSource {
        let open = sequence.layers[layer].state.withLock { state -> BlockSource? in
            guard index < state.mapped.count else { return .memory(state.memory[index - state.mapped.count]) }
            return state.mapped[index].payload.map { .mapped($0) }
        }
        if let open { return open }
        guard let writer = lineage.writer(ofBlock: index),
            let block = try assemble(
                BlockKey(model: sequence.model.id, writer: writer, layer: layer, index: index),
                sequence.model.panels[layer], mayBeKept: false, isPrivileged: true)
        else { throw damagedBlock(index, layer: layer, of: sequence.id) }
        return .assembled(block)
    }
}
