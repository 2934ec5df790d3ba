// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
public import DCPCore
internal import DCPStore
internal import Synchronization

/// Dropping uncommitted tokens, at once: in RAM, and from the index where they were spilled.
extension ShardCache {
    /// Drops uncommitted tokens of one layer from `length` on. Damage does not prevent it: the dropped tokens
    /// are uncommitted, and a step that met the damage must be rolled back.
    /// - Throws: `.positionMismatch` below the committed length, below that of a commit under way, below that of a fork that
    ///   shares uncommitted tokens, and above the layer's length.
    public func rewind(sequence id: SequenceID, layer: Int, length: Position) throws(ServiceError) {
        let sequence = try sequence(id)
        try checkLayer(layer, of: sequence)
        let dropsSealed = try sequence.core.withLock { core throws(ServiceError) in
            guard !core.isClosed else { throw unknown(id) }
            try checkFloor(id, length, core)
            guard length >= core.shared else {
                throw fail(
                    .positionMismatch,
                    "\(id) shares its tokens up to \(core.shared) with a fork on \(rank), so a single layer cannot "
                        + "be rewound to \(length); rewind all layers.")
            }
            // Idle, it has nothing to drop, and is not brought into RAM for that.
            guard let residence = core.residence else {
                try checkReached(id, layer, length, core.committed)
                return false
            }
            return try residence.layers[layer].state.withLock { state throws(ServiceError) in
                try checkReached(id, layer, length, state.length)
                let open = try reopen(sequence, layer: layer, state, &core, to: length)
                return rewind(sequence, layer: layer, &state, core, to: length, open)
            }
        }
        if dropsSealed { trim(sequence) }
    }

    /// Drops the uncommitted tokens of all layers from `length` on; a layer that ends before it is left as it is.
    /// - Throws: `.positionMismatch` below the committed length, or below that of a commit under way.
    public func rewind(sequence id: SequenceID, length: Position) throws(ServiceError) {
        let sequence = try sequence(id)
        try sequence.core.withLock { core throws(ServiceError) in
            guard !core.isClosed else { throw unknown(id) }
            try checkFloor(id, length, core)
        }
        try dropUncommitted(sequence, to: length)
    }

    /// As `rewind`, to a length that may be rewound to.
    func dropUncommitted(_ sequence: SequenceCache, to length: Position) throws(ServiceError) {
        let dropsSealed = try sequence.core.withLock { core throws(ServiceError) in
            // Of all layers before any is changed, since it may fail: a layer that has lost blocks which another still has
            // would put new ones in the place of those that a fork shares. Meanwhile appends add to blocks in RAM alone.
            var open: [MemoryBlock?] = []
            for (number, layer) in core.layers.enumerated() {
                open.append(
                    try layer.state.withLock { state throws(ServiceError) in
                        try reopen(sequence, layer: number, state, &core, to: length)
                    })
            }
            var dropsSealed = false
            for (number, layer) in core.layers.enumerated() {
                let drops = layer.state.withLock { state in
                    rewind(sequence, layer: number, &state, core, to: length, open[number])
                }
                dropsSealed = dropsSealed || drops
            }
            core.shared = min(core.shared, length)
            // The damaged part is gone.
            if let damage = core.damage, damage.start >= shard.end(of: length) { core.damage = nil }
            return dropsSealed
        }
        if dropsSealed { trim(sequence) }
    }

    private func checkReached(
        _ id: SequenceID, _ layer: Int, _ length: Position, _ reached: Position
    ) throws(ServiceError) {
        guard length > reached else { return }
        throw fail(
            .positionMismatch,
            "Layer \(layer) of \(id) has \(reached) tokens on \(rank) and cannot be rewound to \(length).")
    }

    private func checkFloor(_ id: SequenceID, _ length: Position, _ core: SequenceCache.Core) throws(ServiceError) {
        guard length < core.floor else { return }
        throw fail(
            .positionMismatch,
            "\(id) is committed up to \(core.floor) tokens on \(rank) and cannot be rewound to \(length); truncate it "
                + "instead.")
    }

    /// With the mutexes of the core and of the layer held.
    /// - Parameter open: what `reopen` gave.
    /// - Returns: whether blocks were dropped that are in the store.
    private func rewind(
        _ sequence: SequenceCache, layer: Int, _ state: inout LayerState, _ core: SequenceCache.Core,
        to length: Position, _ open: MemoryBlock?
    ) -> Bool {
        guard length < state.length else { return false }
        let panels = sequence.model.panels[layer]
        let local = shard.end(of: length)
        let kept = shard.fullBlocks(of: length)
        let sealed = state.mapped.count
        let dropsSealed = kept < sealed
        releaseUncommitted(sequence, layer: layer, local..<shard.end(of: state.length), sealed: sealed)
        if dropsSealed {
            let reopened = max(shard.start(ofBlock: kept), min(shard.end(of: core.committed), local))..<local
            releaseUncommitted(sequence, layer: layer, reopened, sealed: sealed)
            holdUncommitted(sequence, layer: layer, reopened, sealed: kept)
            state.dropSealed(from: kept)
            state.memory = open.map { [$0] } ?? []
            state.verified = state.verified.clamped(to: 0..<kept)
            state.generation += 1
        } else {
            state.dropMemory(from: local, of: shard, panels, pool: memory)
        }
        state.length = length
        return dropsSealed
    }

    /// The tokens before `length` of a spilled block that the cut goes through, in RAM again; nil when it goes through none.
    /// All of a rewind that may fail, so before anything is changed. With the mutexes of the core and of the layer held.
    private func reopen(
        _ sequence: SequenceCache, layer: Int, _ state: LayerState, _ core: inout SequenceCache.Core,
        to length: Position
    ) throws(ServiceError) -> MemoryBlock? {
        guard !state.isClosed else { throw unknown(sequence.id) }
        guard !state.isFrozen else { throw fail(.notReady, "\(sequence.id) is being truncated on \(rank); retry.") }
        let index = shard.fullBlocks(of: length)
        guard length < state.length, index < state.mapped.count else { return nil }
        let tokens = shard.end(of: length) - shard.start(ofBlock: index)
        guard tokens > 0 else { return nil }
        let address = state.mapped[index]
        // The address is in the index, so nothing has deleted the block, and this keeps the map. Reopening a block
        // waits for reading it, mostly from memory, because it was just written.
        let read = try mapping { () throws(StoreError) in try environment.beginRead(isPrivileged: true) }
        defer { withExtendedLifetime(read) {} }
        guard let lineage = lineages.withLock({ $0[sequence.id] }) else { throw unknown(sequence.id) }
        do throws(ServiceError) {
            return try copy(address, of: sequence, layer: layer, index: index, lineage, tokens: tokens)
        } catch {
            guard error.code == .storeDamaged else { throw error }
            core.markDamaged(from: shard.start(ofBlock: index), error.message)
            return MemoryBlock(sequence.model.panels[layer], .zeros, pool: memory)
        }
    }
}
