// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
public import DCPCore
internal import DCPStore
internal import Synchronization

extension ShardCache {
    /// Opens an empty sequence. Repeating it succeeds; an id of another model or scope, or of a fork, is `.conflict`.
    /// - Parameters:
    ///   - scope: who may find it by its ids: up to 255 bytes of UTF-8. Forks inherit it.
    ///   - name: what clients call it; the directory's to give and to keep unique.
    ///   - isOwed: whether a join waits for it. It then takes the reserve of a full store, because nothing can be closed
    ///     before the join is over.
    public func openSequence(
        id: SequenceID, model: ModelID, scope: String = "", name: String = "", isOwed: Bool = false,
        completion: @escaping CacheCompletion
    ) {
        guard scope.utf8.count <= SequenceLimits.scopeByteCountMax else {
            return completion(
                .failure(
                    fail(
                        .invalidRequest,
                        "The scope of \(id) has \(scope.utf8.count) bytes, more than the limit of "
                            + "\(SequenceLimits.scopeByteCountMax); shorten it.")))
        }
        let plan = Handoff<SequenceCache?>(nil)
        let lineage = Handoff<Lineage?>(nil)
        enqueue([Self.key(id)], usesReserve: isOwed, completion) { [self] transaction in
            guard let entry = modelEntries.withLock({ $0[model] }) else {
                throw fail(.unknownModel, "\(model) is not in the store of \(rank); add it first.")
            }
            if damagedRecords.withLock({ $0[id] != nil }) { _ = try sequence(id) }
            if let known = sequenceCaches.withLock({ $0[id] }) {
                guard known.model.id == model, known.origin == nil else {
                    throw fail(
                        .conflict,
                        "\(id) exists on \(rank) as \(known.origin == nil ? "a sequence" : "a fork") of "
                            + "\(known.model.id), not as a sequence of \(model); use another id.")
                }
                guard known.scope == scope else {
                    throw fail(
                        .conflict,
                        "\(id) exists on \(rank) with the scope \"\(known.scope)\", not \"\(scope)\"; use another id.")
                }
                return
            }
            let fresh = Lineage(writer: try takeWriter(&transaction))
            let change = takeChange()
            let layers = [LayerState](repeating: LayerState(length: Position(0), mapped: []), count: entry.layers)
            let opened = SequenceCache(
                id: id, model: entry, scope: scope, name: name, origin: nil, committed: Position(0), lastChange: change,
                residence: Residence(layers, blocks: 0, account: indexes))
            let record = StoredSequence(
                opened, committed: Position(0), lineage: fresh, rows: fresh, tokens: TokenRecord(lineage: fresh),
                lastChange: change, claim: .none)
            try transaction.put(tables.sequences, StoredSequence.key(id), record.encoded(id))
            try transaction.raise(Counter.sequence, to: id.value, tables.meta)
            plan.value = opened
            lineage.value = fresh
        } undo: {
            plan.value = nil
        } apply: { [self] in
            guard let opened = plan.value, let fresh = lineage.value else { return }
            plan.value = nil
            stored(opened.core.withLock { $0.lastChange })
            lineages.withLock { $0[id] = fresh }
            rowLineages.withLock { $0[id] = fresh }
            residents.withLock { _ = $0.insert(id) }
            tokensCommitted(opened, TokenRecord(lineage: fresh))
            sequenceCaches.withLock { $0[id] = opened }
            numbers.withLock { $0.sequence = max($0.sequence, id.value) }
        }
    }

    /// Removes a sequence with its uncommitted tokens; succeeds when there is none. Blocks that a fork shares stay.
    public func close(_ id: SequenceID, completion: @escaping CacheCompletion) {
        let plan = Handoff<(closed: SequenceCache, layers: [LayerState], lineage: Lineage?, rows: Lineage?)?>(nil)
        let rest = Handoff(Doomed())
        let change = Handoff<UInt64>(0)
        // Synced: the directory removes it permanently, and would not repeat the operation for a rank that lost it.
        enqueue([Self.key(id)], isFreeing: true, isSynced: true, completion) { [self] transaction in
            change.value = 0
            guard let closed = sequenceCaches.withLock({ $0[id] }) else {
                guard damagedRecords.withLock({ $0[id] != nil }) else { return }
                change.value = try putChange(&transaction)
                // Its blocks and rows are found at the next start, when every record can be read again.
                try transaction.delete(tables.sequences, StoredSequence.key(id))
                return
            }
            closed.core.withLock { $0.isClosed = true }
            // Addresses leave the index before the transaction that deletes their blocks commits: see ContextReader.
            let layers = closed.layers.map { layer in
                layer.state.withLock { state in
                    let saved = state
                    state = LayerState(
                        length: Position(0), mapped: [], generation: saved.generation + 1, isClosed: true)
                    return saved
                }
            }
            plan.value = (closed, layers, lineages.withLock { $0[id] }, rowLineages.withLock { $0[id] })
            change.value = try putChange(&transaction)
            try transaction.delete(tables.sequences, StoredSequence.key(id))
            let rows = try delete(replaceRows(of: closed, by: nil), &transaction)
            rest.value = Doomed(blocks: try delete(replaceLineage(of: closed, by: nil), &transaction), rows: rows)
        } undo: { [self] in
            guard let (closed, layers, lineage, rows) = plan.value else { return }
            lineages.withLock { $0[id] = lineage }
            rowLineages.withLock { $0[id] = rows }
            for (layer, saved) in zip(closed.layers, layers) { layer.state.withLock { $0.restore(saved) } }
            closed.core.withLock { $0.isClosed = false }
            plan.value = nil
        } apply: { [self] in
            damagedRecords.withLock { $0[id] = nil }
            stored(change.value)
            guard let (closed, layers, _, _) = plan.value else { return }
            // Now, so that the RAM is free when the completion says so.
            plan.value = nil
            let committed = shard.end(of: closed.core.withLock { $0.committed })
            for (layer, saved) in layers.enumerated() {
                releaseUncommitted(
                    closed, layer: layer, committed..<shard.end(of: saved.length), sealed: saved.mapped.count)
            }
            sequenceCaches.withLock { $0[id] = nil }
            tokensClosed(id)
            spills.withLock { $0.forget(id) }
            residents.withLock { _ = $0.remove(id) }
            sweepLater(rest.value)
            forgetDroppedPieces()
        }
    }

    /// Gives a sequence another lineage, or none; part of a job's body, after its addresses have left the index. Undone by
    /// putting the former back before the addresses: a check of blocks takes a lineage for that of the addresses it found.
    /// - Returns: blocks that no sequence covers any more, also of those that drop them in the same transaction.
    func replaceLineage(of sequence: SequenceCache, by replacement: Lineage?) -> [DoomedBlocks] {
        let runs = sequence.model.pageRuns
        return lineages.withLock { $0.replace(sequence.id, by: replacement) }.flatMap { dropped in
            runs.map { run in
                DoomedBlocks(
                    model: sequence.model.id, writer: dropped.writer, layers: run.layers, blocks: dropped.blocks,
                    pages: run.pages)
            }
        }
    }

    /// Tokens of one layer, by local index, are uncommitted.
    /// - Parameter sealed: blocks of the layer that are, or were, in the store.
    func holdUncommitted(_ sequence: SequenceCache, layer: Int, _ tokens: Range<LocalIndex>, sealed: Int) {
        account(sequence, layer: layer, tokens, sealed: sealed, times: 1)
    }

    /// They are no longer.
    func releaseUncommitted(_ sequence: SequenceCache, layer: Int, _ tokens: Range<LocalIndex>, sealed: Int) {
        account(sequence, layer: layer, tokens, sealed: sealed, times: -1)
    }

    private func account(_ sequence: SequenceCache, layer: Int, _ tokens: Range<LocalIndex>, sealed: Int, times: Int) {
        let keptByteCount = sequence.model.panels[layer].keptByteCount
        let stored = tokens.clamped(to: shard.start(ofBlock: 0)..<shard.start(ofBlock: sealed)).count
        spilled.add(times * stored * keptByteCount)
        uncommitted.add(times * (tokens.count - stored) * keptByteCount)
    }

    // MARK: State

    public func holds(_ id: SequenceID) -> Bool { sequenceCaches.withLock { $0[id] != nil } }

    public func state(of id: SequenceID) -> SequenceState? {
        sequenceCaches.withLock { $0[id] }.flatMap(state)
    }

    /// What a step asks of each of its entries: whose model it is, and where one of its layers ends, with what is not committed;
    /// without all that `state(of:)` copies.
    ///
    /// - Parameter layer: of the model; where the sequence has no such layer, its length is 0.
    /// - Returns: nil where `state(of:)` is.
    public func layer(_ layer: Int, of id: SequenceID) -> (model: ModelID, length: Position)? {
        guard let sequence = sequenceCaches.withLock({ $0[id] }) else { return nil }
        let found = sequence.core.withLock { core -> (residence: Residence?, committed: Position)? in
            core.isClosed ? nil : (core.residence, core.committed)
        }
        guard let found else { return nil }
        guard layer < sequence.model.layers else { return (sequence.model.id, Position(0)) }
        return (
            sequence.model.id, found.residence.map { $0.layers[layer].state.withLock(\.length) } ?? found.committed
        )
    }

    /// Whether any layer of a sequence has more tokens than so many.
    public func hasLayer(of id: SequenceID, beyond length: Position) -> Bool {
        guard let sequence = sequenceCaches.withLock({ $0[id] }) else { return false }
        let found = sequence.core.withLock { ($0.isClosed, $0.residence, $0.committed) }
        guard !found.0 else { return false }
        return found.1.map { $0.layers.contains { $0.state.withLock(\.length) > length } } ?? (found.2 > length)
    }

    /// All sequences, by id. Those whose record is damaged are not among them.
    public var sequences: [SequenceState] {
        sequenceCaches.withLock { Array($0.values) }.compactMap(state).sorted { $0.id < $1.id }
    }

    /// Sequences whose record in the store is damaged. Only `close` accepts them.
    public var damagedSequences: [SequenceID] { damagedRecords.withLock { $0.keys.sorted() } }

    private func state(_ sequence: SequenceCache) -> SequenceState? {
        let core = sequence.core.withLock { $0 }
        guard !core.isClosed else { return nil }
        let (tokenIDs, isIndexed) = tokens.withLock {
            ($0[sequence.id]?.count ?? 0, $0.isIndexed(sequence.id))
        }
        return SequenceState(
            id: sequence.id, model: sequence.model.id, scope: sequence.scope, name: sequence.name,
            retention: core.retention, committedLength: core.committed,
            tokenIDs: tokenIDs, areIDsIntact: tokenIDs == 0 || isIndexed,
            layerLengths: core.residence.map { $0.layers.map { $0.state.withLock(\.length) } }
                ?? [Position](repeating: core.committed, count: sequence.model.layers),
            intactLength: intactLength(core),
            lastChange: core.lastChange, claim: core.claim)
    }

    /// The next place in the order of changes. Writer thread; one that an undone change took is not given again.
    func takeChange() -> UInt64 { changes.add(1, ordering: .relaxed).newValue }

    /// Takes one for a closing, which leaves no record to hold it: a store never falls behind what it was.
    private func putChange(_ transaction: inout WriteTransaction) throws -> UInt64 {
        let change = takeChange()
        try transaction.put(change, Counter.change, tables.meta)
        return change
    }

    /// A change is in a committed transaction. Writer thread.
    func stored(_ change: UInt64) { storedChange.max(change, ordering: .relaxed) }

    /// Everything committed by now is on the disk. Writer thread.
    func noteSync() { durableChange.max(storedChange.load(ordering: .relaxed), ordering: .relaxed) }

    /// The store's place in the order of its own changes.
    public var mark: UInt64 { storedChange.load(ordering: .relaxed) }

    /// No store of this process has come further.
    package var markMax: UInt64 { changes.load(ordering: .relaxed) }

    /// The mark that survives a power loss; sometimes a little less, never more. Changes of an earlier process count
    /// from the first sync of this one.
    public var durableMark: UInt64 {
        let durable = durableChange.load(ordering: .relaxed)
        return settings.durability == .always && durable > 0 ? mark : durable
    }

    public func statistics() throws(ServiceError) -> CacheStatistics {
        let usage = try mapping { () throws(StoreError) in try environment.usage() }
        let entries = try mapping { () throws(StoreError) in
            let read = try environment.beginRead(isPrivileged: true)
            return try read.count(tables.blocks)
        }
        let pieced = pieced.withLock { (count: $0.count, excess: $0.excess) }
        return CacheStatistics(
            sequences: sequenceCaches.withLock(\.count), localTokens: countedTokens(),
            // The entries may be of a transaction whose pieces are noted only after its sync.
            sealedBlocks: max(entries - pieced.excess, 0), piecedBlocks: pieced.count,
            memoryByteCount: memory.account.value, indexByteCount: indexes.value,
            residentSequences: residents.withLock(\.count), spareByteCount: memory.spareByteCount,
            uncommittedByteCount: uncommitted.value, spilledByteCount: spilled.value,
            blocksSpilled: spilledBlocks.load(ordering: .relaxed),
            storeUsedByteCount: usage.usedByteCount, storeFileByteCount: usage.fileByteCount,
            storeMapByteCount: usage.mapByteCount, readers: readers.value,
            transactionsCommitted: writer.transactionsCommitted)
    }
}
