// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import DCPStore
internal import Synchronization

/// The writes of a fork.
private struct Forking {
    var child: SequenceCache
    /// The child's.
    var lineage: Lineage
    /// Of its parent: blocks that both have from now on.
    var sealing: Sealing
    /// The child's; nil when it was not written.
    var tokens: TokenRecord?
}

extension ShardCache {
    /// Makes a sequence that starts with the first `length` tokens of another, which all its layers have.
    ///
    /// Blocks wholly within the length are shared: those in RAM are sealed for that. So is the block it cuts when it is the
    /// parent's open one, its rows in the store and its memory until the child appends. Of a sealed one the tokens are copied,
    /// once for several forks at the same place. What the parent has not committed the child has not, either. Parent and child
    /// then live and end independently. Repeating a fork succeeds; another sequence of the child's id is `.conflict`.
    /// - Parameters:
    ///   - isOwed: see `openSequence`.
    ///   - completion: `.invalidRequest` above the length of the parent's shortest layer; `.unknownSequence`,
    ///     `.storeDamaged`, `.storeFull`.
    public func fork(
        parent: SequenceID, child: SequenceID, length: Position, name: String = "", isOwed: Bool = false,
        completion: @escaping CacheCompletion
    ) {
        let origin = StoredSequence.Origin(parent: parent, length: length)
        let plan = Handoff<Forking?>(nil)
        // Committed tokens are only read, so many forks of one parent share a transaction. Uncommitted tokens are
        // sealed.
        let committed = sequenceCaches.withLock { $0[parent] }?.core.withLock(\.committed) ?? Position(0)
        let isReading = length <= committed
        let changed = isReading ? [child] : [parent, child]
        enqueue(
            changed.map(Self.key), reading: isReading ? [Self.key(parent)] : [], usesReserve: isOwed, completion
        ) { [self] transaction in
            plan.value = nil
            if damagedRecords.withLock({ $0[child] != nil }) { _ = try sequence(child) }
            if let known = sequenceCaches.withLock({ $0[child] }) {
                guard known.origin == origin else {
                    throw fail(
                        .conflict,
                        "\(child) exists on \(rank) and is not a fork of \(parent) at \(length); use another id.")
                }
                return
            }
            let parent = try sequence(parent)
            if isReading, length > parent.core.withLock(\.committed) {
                throw fail(.notReady, "\(parent.id) was truncated on \(rank) before it was forked; retry.")
            }
            try fork(parent, child, name, origin, plan, &transaction)
        } undo: { [self] in
            sequenceCaches.withLock { $0[parent] }?.core.withLock { $0.floor = $0.committed }
            if let forked = plan.value {
                undo(forked.sealing)
                rowLineages.withLock { $0[child] = nil }
                reopening.withLock { $0 = nil }
            }
            plan.value = nil
        } apply: { [self] in
            guard let forked = plan.value else { return }
            plan.value = nil
            finish(forked)
            if let tokens = forked.tokens { tokensForked(parent, forked.child, tokens) }
        }
    }

    private func fork(
        _ parent: SequenceCache, _ child: SequenceID, _ name: String, _ origin: StoredSequence.Origin,
        _ plan: Handoff<Forking?>, _ transaction: inout WriteTransaction
    ) throws {
        try prepare(parent)
        let length = origin.length
        let core = try hold(parent, length)
        let local = shard.end(of: length)
        let shared = shard.fullBlocks(of: length)
        guard var lineage = lineages.withLock({ $0[parent.id] }),
            let parentRows = rowLineages.withLock({ $0[parent.id] })
        else { throw unknown(parent.id) }
        let committed = min(length, core.committed)
        let rows = openRows(committed: committed)
        // Then it is a block of committed tokens, whose rows are gone.
        let isReopening = parentRows.rowStart > rows.lowerBound && !rows.isEmpty
        let cut = isReopening ? lineage.writer(ofBlock: shared) : nil
        let known = reopening.withLock { $0 }.flatMap { $0.isReopening(cut, rows) ? $0 : nil }
        let open =
            try known?.borrowedBlocks ?? straddlingBlocks(parent, lineage: lineage, at: local, borrows: true)
        var sealing = Sealing(sequence: parent, lineage: lineage)
        var layers: [LayerState] = []
        for (index, layer) in core.layers.enumerated() {
            layer.state.withLock { state in
                sealing.layers.append(lease(state, upTo: length > core.committed ? shared : 0))
                layers.append(
                    LayerState(
                        length: length, mapped: state.mapped(upTo: shared), stored: shared,
                        assembled: state.assembled.filter { $0.key < shared },
                        memory: open.isEmpty ? [] : [open[index]],
                        verified: state.verified.clamped(to: 0..<min(shared, state.mapped.count))))
            }
        }
        let change = takeChange()
        let forked = SequenceCache(
            id: child, model: parent.model, scope: parent.scope, name: name, origin: origin, committed: committed,
            lastChange: change, residence: Residence(layers, blocks: shared, account: indexes))
        var tokens: TokenRecord?
        // Before it writes: the undo ends the leases.
        defer { plan.value = Forking(child: forked, lineage: lineage, sealing: sealing, tokens: tokens) }
        try write(&sealing, &transaction)
        lineage = sealing.lineage.cut(to: shared, writer: try takeWriter(&transaction))
        if shared > shard.fullBlocks(of: committed) {
            // What the parent seals in the place of these, after a rewind, must not take their keys.
            sealing.lineage.isWriterSpent = true
            for sequence in [parent, forked] { sequence.core.withLock { $0.shared = max($0.shared, length) } }
        }
        let sharedRows = known.flatMap { known in rowLineages.withLock { known.isIn($0) } ? known.rows : nil }
        var ownRows = (sharedRows ?? parentRows).cut(to: rows.upperBound, writer: lineage.writer)
        if ownRows.rowStart != rows.lowerBound { ownRows = Lineage(writer: lineage.writer, from: rows.lowerBound) }
        try putRows(
            ownRows.rowEnd..<rows.upperBound, of: forked, blocks: open.map { .memory($0) }, behind: &ownRows,
            &transaction)
        if let cut, sharedRows == nil {
            reopening.withLock { $0 = Reopening(writer: cut, rows: ownRows, blocks: open) }
        }
        // In the body: what others drop in the same transaction, it still has.
        _ = replaceRows(of: forked, by: ownRows)
        let ids = try cutTokens(of: parent.id, to: committed, writer: lineage.writer, &transaction)
        tokens = ids
        let record = StoredSequence(
            forked, committed: committed, lineage: lineage.covering(shard.fullBlocks(of: committed)),
            rows: ownRows, tokens: ids, lastChange: change, claim: .none)
        try transaction.put(tables.sequences, StoredSequence.key(child), record.encoded(child))
        try transaction.raise(Counter.sequence, to: child.value, tables.meta)
    }

    /// Keeps the tokens that are forked from being rewound meanwhile.
    private func hold(_ parent: SequenceCache, _ length: Position) throws(ServiceError) -> SequenceCache.Core {
        try parent.core.withLock { core throws(ServiceError) in
            let reached = core.layers.reduce(Position(.max)) { min($0, $1.state.withLock(\.length)) }
            guard (Position(0)...reached).contains(length) else {
                throw fail(
                    .invalidRequest,
                    "\(parent.id) has \(reached) tokens in all layers on \(rank), \(core.committed) of them committed, and "
                        + "cannot be forked at \(length); append the rest first, or fork it at \(reached) or earlier.")
            }
            try checkIntact(core, upTo: shard.end(of: length))
            core.floor = max(core.floor, length)
            return core
        }
    }

    private func finish(_ forked: Forking) {
        let child = forked.child
        forked.sealing.sequence.core.withLock { $0.floor = $0.committed }
        stored(child.core.withLock(\.lastChange))
        let sealed: [[BlockAddress]]
        do throws(StoreError) {
            sealed = try addresses(forked.sealing)
        } catch {
            sealed = forked.sealing.layers.map { _ in [] }
            child.markDamaged(
                from: shard.start(ofBlock: forked.sealing.layers.map(\.first).min() ?? 0),
                "The blocks of \(child.id) cannot be read back from the store of \(rank): \(error)")
        }
        // Blocks that cannot be read back are still in the parent's RAM.
        try? apply(forked.sealing)
        let committed = shard.end(of: child.core.withLock(\.committed))
        for (number, layer) in child.layers.enumerated() {
            layer.state.withLock { state in
                state.noteWritten(state.mapped.count..<state.mapped.count + sealed[number].count)
                state.mapped += sealed[number]
                holdUncommitted(
                    child, layer: number, committed..<shard.end(of: state.length), sealed: state.mapped.count)
            }
        }
        lineages.withLock { $0[child.id] = forked.lineage }
        residents.withLock { _ = $0.insert(child.id) }
        sequenceCaches.withLock { $0[child.id] = child }
        numbers.withLock { $0.sequence = max($0.sequence, child.id.value) }
    }
}
