internal import DCPAttention
public import DCPCore
internal import DCPStore
internal import Synchronization

/// What a commit of one sequence writes, planned under the locks and written without them.
struct CommitPlan {
    var sequence: SequenceCache
    var committed: Int
    var length: Int
    /// Each layer's blocks in RAM, from the first that is not sealed up to the one that holds the last token.
    var memory: [[MemoryBlock]] = []
    var lineage: Lineage
    var change: UInt64
    var claim: Claim
    var tokens: TokenPlan
    /// Blocks that become sealed.
    var sealed: Range<Int>
    /// Those of them that found no run of pages.
    var inPieces: Set<BlockKey> = []
    /// Rows of theirs that are left to delete.
    var rest: [DoomedRows] = []
}

extension ShardCache {
    /// Makes sequences durable up to the given global lengths, all in one transaction. Lengths at or below what is
    /// committed are fine and change none.
    public func commit(_ lengths: [(SequenceID, Int)], completion: @escaping CacheCompletion) {
        let wanted = lengths.reduce(into: [SequenceID: Int]()) { $0[$1.0] = max($0[$1.0] ?? 0, $1.1) }
        commit(wanted.map { CommitPart($0.key, length: $0.value) }, completion: completion)
    }

    /// As `commit(_:)` with lengths alone; ids and annotations are in the same transaction.
    ///
    /// - Parameter completion: `.positionMismatch` when a layer has not reached the length, or ids would leave a gap;
    ///   `.conflict` for ids that contradict stored ones; `.invalidRequest` for a sequence that is there twice, and for too
    ///   many ids, too few, or too long an annotation; `.storeFull` (retryable: the tokens stay in RAM),
    ///   `.unknownSequence`, `.storeDamaged`. After a failure none of the sequences has changed.
    public func commit(_ parts: [CommitPart], completion: @escaping CacheCompletion) {
        let parts = parts.sorted { $0.sequence < $1.sequence }
        if let pair = zip(parts, parts.dropFirst()).first(where: { $0.sequence == $1.sequence }) {
            return completion(
                .failure(fail(.invalidRequest, "\(pair.0.sequence) is in the commit twice; commit it once.")))
        }
        let plans = Plan<[CommitPlan]>([])
        enqueue(parts.map { Self.key($0.sequence) }, completion) { [self] transaction in
            plans.value = []
            // Everything is checked before the first byte is written: a refusal then concerns nobody else.
            for part in parts {
                if let plan = try plan(part, transaction) {
                    plans.value.append(plan)
                    try collectBlocks(&plans.value[plans.value.count - 1])
                }
            }
            for index in plans.value.indices { try write(&plans.value[index], &transaction) }
            FailPoint.commitBefore.pass()
        } undo: {
            for plan in plans.value { plan.sequence.core.withLock { $0.floor = $0.committed } }
            plans.value = []
        } apply: { [self] in
            FailPoint.commitAfter.pass()
            for plan in plans.value { apply(plan) }
            plans.value = []
            pieced.withLock { $0.noteCommit(transactions: writer.transactionsCommitted) }
            healPieces()
        }
    }

    /// Raises the floor, so that nothing the plan writes is rewound meanwhile. nil when there is nothing to do.
    private func plan(_ part: CommitPart, _ transaction: borrowing WriteTransaction) throws -> CommitPlan? {
        let (id, length) = (part.sequence, part.length)
        let sequence = try sequence(id)
        let tokens = try planTokens(part, committed: prepare(sequence).committed, transaction)
        guard var lineage = lineages.withLock({ $0[id] }) else { throw unknown(id) }
        let start = lineage.sealedBlocks
        let (committed, claim) = try sequence.core.withLock { core throws(ServiceError) in
            if length > core.committed {
                try checkIntact(core, localLength: localLength(length))
                core.floor = length
            }
            return (core.committed, core.claim)
        }
        guard length > committed || !tokens.isEmpty else { return nil }
        lineage.seal(upTo: localLength(length) / blockTokens)
        return CommitPlan(
            sequence: sequence, committed: committed, length: max(length, committed), lineage: lineage,
            change: takeChange(), claim: claim, tokens: tokens, sealed: start..<lineage.sealedBlocks)
    }

    private func collectBlocks(_ plan: inout CommitPlan) throws(ServiceError) {
        let count = (localLength(plan.length) + blockTokens - 1) / blockTokens - plan.sealed.lowerBound
        for (index, layer) in plan.sequence.layers.enumerated() {
            let length = plan.length
            let id = plan.sequence.id
            let blocks = try layer.state.withLock { state throws(ServiceError) in
                guard state.length >= length else {
                    throw fail(
                        .positionMismatch,
                        "Layer \(index) of \(id) has \(state.length) tokens on \(rank) and cannot be committed up to "
                            + "\(length); append the rest first.")
                }
                return Array(state.memory.prefix(count))
            }
            plan.memory.append(blocks)
        }
    }

    private func write(_ plan: inout CommitPlan, _ transaction: inout WriteTransaction) throws {
        let sequence = plan.sequence
        let first = plan.sealed.lowerBound
        for (layer, blocks) in plan.memory.enumerated() {
            let panels = sequence.model.panels[layer]
            let byteCount = sequence.model.blockByteCounts[layer]
            for index in plan.sealed {
                let key = BlockKey(model: sequence.model.id, writer: plan.lineage.writer, layer: layer, index: index)
                let payload = UnsafeRawPointer(blocks[index - first].address)
                let isInPieces = try transaction.place(tables.blocks, key.bytes, byteCount: byteCount) {
                    BlockRecord.write(key, payload: payload, panels: panels, into: $0)
                }
                if isInPieces { plan.inPieces.insert(key) }
            }
        }
        if !plan.sealed.isEmpty { FailPoint.commitSealed.pass() }
        let old = localLength(plan.committed)
        let new = localLength(plan.length)
        if !plan.sealed.isEmpty { plan.rest = try deleteRows(sequence, first * blockTokens..<old, &transaction) }
        let open = plan.sealed.upperBound
        try putRows(
            sequence, max(old, open * blockTokens)..<new,
            blocks: plan.memory.compactMap { $0.dropFirst(open - first).first },
            &transaction)
        try writeTokens(&plan.tokens, length: plan.length, &transaction)
        let record = SequenceRecord(
            sequence, committed: plan.length, lineage: plan.lineage, tokens: plan.tokens.record,
            lastChange: plan.change, claim: plan.claim)
        try transaction.put(tables.sequences, SequenceRecord.key(sequence.id), record.encoded(sequence.id))
    }

    /// Writes the tail rows of local tokens, which are all in `blocks`, one for each layer.
    func putRows(
        _ sequence: SequenceCache, _ tokens: Range<Int>, blocks: [MemoryBlock], _ transaction: inout WriteTransaction
    ) throws {
        let layout = sequence.model.tail
        let isAnyLeft = doomed.withLock { $0.rows.contains { $0.sequence == sequence.id } }
        for token in tokens {
            let key = TailRecord.key(sequence.id, localIndex: token)
            // What a cut or a seal has left there may be of the other kind, whole or in pieces.
            if isAnyLeft { try transaction.remove(tables.tail, key) }
            try transaction.place(tables.tail, key, byteCount: layout.byteCount) {
                TailRecord.write(
                    key: key, payloads: blocks, token: token % blockTokens, layout: layout, into: $0)
            }
        }
    }

    /// Puts the mapped blocks in the place of those in RAM.
    private func apply(_ plan: CommitPlan) {
        let sequence = plan.sequence
        stored(plan.change)
        // Before the layers: who finds a sealed block there must find its writer here.
        lineages.withLock { $0[sequence.id] = plan.lineage }
        tokensCommitted(sequence, plan.tokens.record)
        sequence.core.withLock { core in
            core.committed = plan.length
            core.floor = plan.length
            core.lastChange = plan.change
        }
        for layer in sequence.layers.indices {
            releaseUncommitted(
                sequence, layer: layer, from: localLength(plan.committed), to: localLength(plan.length))
        }
        guard !plan.sealed.isEmpty else { return }
        if !plan.rest.isEmpty { sweepLater(Doomed(rows: plan.rest)) }
        do throws(StoreError) {
            let addresses = try addresses(plan)
            for (number, addresses) in addresses.enumerated() {
                sequence.layers[number].state.withLock { state in
                    for (offset, address) in addresses.enumerated() where address.payload == nil {
                        let block = assembled(state.memory[offset], sequence.model.panels[number], mayBeKept: true)
                        if block.isKept { state.assembled[plan.sealed.lowerBound + offset] = block }
                    }
                    // Just written from what the checksum was made of: as good as checked.
                    let written = state.mapped.count..<state.mapped.count + addresses.count
                    if state.verified.isEmpty {
                        state.verified = written
                    } else if state.verified.upperBound == written.lowerBound {
                        state.verified = state.verified.lowerBound..<written.upperBound
                    }
                    state.mapped += addresses
                    state.memory.removeFirst(addresses.count)
                }
            }
            let found = plan.inPieces.sorted().map { key in
                PiecedBlocks.Block(
                    key: key, pages: sequence.model.blockPages[key.layer],
                    pieces: environment.pieces(valueByteCount: sequence.model.blockByteCounts[key.layer]))
            }
            pieced.withLock { $0.add(found) }
        } catch {
            sequence.markDamaged(
                fromLocalIndex: plan.sealed.lowerBound * blockTokens,
                "The blocks of \(sequence.id) cannot be read back from the store of \(rank): \(error)")
        }
    }

    private func addresses(_ plan: CommitPlan) throws(StoreError) -> [[BlockAddress]] {
        let model = plan.sequence.model
        let read = try environment.beginRead(isPrivileged: true)
        var all: [[BlockAddress]] = []
        for layer in plan.sequence.layers.indices {
            let byteCount = model.blockByteCounts[layer]
            var addresses: [BlockAddress] = []
            for index in plan.sealed {
                let key = BlockKey(model: model.id, writer: plan.lineage.writer, layer: layer, index: index)
                guard !plan.inPieces.contains(key) else {
                    addresses.append(.inPieces)
                    continue
                }
                guard let value = try read.get(tables.blocks, key.bytes),
                    let address = BlockAddress(value, byteCount: byteCount)
                else { throw StoreError(.damaged, "block \(index) of layer \(layer) is missing or not aligned") }
                addresses.append(address)
            }
            all.append(addresses)
        }
        return all
    }
}
