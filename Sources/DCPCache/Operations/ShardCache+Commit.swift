// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
public import DCPCore
internal import DCPStore
internal import Synchronization

/// The writes of one sequence's commit, planned under the locks and executed without them.
struct CommitPlan {
    var committed: Position
    var length: Position
    /// The blocks that are not in the store yet.
    var sealing: Sealing
    /// Each layer's block that holds the last token, when that is not full; also one that was spilled since it is.
    var open: [BlockSource] = []
    var change: UInt64
    var claim: Claim
    var tokens: TokenPlan
    /// Blocks that become committed.
    var sealed: Range<Int>
    /// The open block's.
    var rows: Lineage
    /// As they were, when they have been replaced.
    var formerRows: Lineage?
    /// Rows of sealed blocks that are left to delete.
    var rest: [DoomedTailRows] = []

    var sequence: SequenceCache { sealing.sequence }
}

extension ShardCache {
    /// Makes sequences durable up to the given lengths, all in one transaction. Lengths at or below what is
    /// committed are fine and change none.
    public func commit(_ lengths: [(SequenceID, Position)], completion: @escaping CacheCompletion) {
        let wanted = lengths.reduce(into: [SequenceID: Position]()) { $0[$1.0] = max($0[$1.0] ?? Position(0), $1.1) }
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
                .failure(fail(.invalidRequest, "\(pair.0.sequence) appears twice in the commit; list it once.")))
        }
        let plans = Handoff<[CommitPlan]>([])
        enqueue(parts.map { Self.key($0.sequence) }, completion) { [self] transaction in
            plans.value = []
            // Everything is checked before the first byte is written, so that a refusal affects no other job.
            for part in parts {
                if let plan = try plan(part, transaction) {
                    plans.value.append(plan)
                    try collectBlocks(&plans.value[plans.value.count - 1])
                }
            }
            for index in plans.value.indices { try write(&plans.value[index], &transaction) }
            FailPoint.commitBefore.pass()
        } undo: { [self] in
            for plan in plans.value {
                plan.sequence.core.withLock { $0.floor = $0.committed }
                if let rows = plan.formerRows { rowLineages.withLock { $0[plan.sequence.id] = rows } }
                undo(plan.sealing)
            }
            plans.value = []
        } apply: { [self] in
            FailPoint.commitAfter.pass()
            for plan in plans.value {
                apply(plan)
                noteDroppable(plan.sequence)
            }
            plans.value = []
            relieveMemory()
            pieced.withLock { $0.noteCommit(transactions: writer.transactionsCommitted) }
            healPieces()
        }
    }

    /// Raises the floor, so that nothing the plan writes is rewound meanwhile. nil when there is nothing to do.
    private func plan(_ part: CommitPart, _ transaction: borrowing WriteTransaction) throws -> CommitPlan? {
        let (id, length) = (part.sequence, part.length)
        let sequence = try sequence(id)
        let tokens = try planTokens(part, committed: prepare(sequence).committed, transaction)
        guard let lineage = lineages.withLock({ $0[id] }), let rows = rowLineages.withLock({ $0[id] }) else {
            throw unknown(id)
        }
        let (committed, claim) = try sequence.core.withLock { core throws(ServiceError) in
            if length > core.committed {
                try checkIntact(core, upTo: shard.end(of: length))
                core.floor = length
            }
            return (core.committed, core.claim)
        }
        guard length > committed || !tokens.isEmpty else { return nil }
        let end = max(length, committed)
        return CommitPlan(
            committed: committed, length: end, sealing: Sealing(sequence: sequence, lineage: lineage),
            change: takeChange(), claim: claim, tokens: tokens,
            sealed: shard.fullBlocks(of: committed)..<shard.fullBlocks(of: end), rows: rows)
    }

    private func collectBlocks(_ plan: inout CommitPlan) throws(ServiceError) {
        let (id, length, sealed) = (plan.sequence.id, plan.length, plan.sealed)
        for (index, layer) in plan.sequence.layers.enumerated() {
            let blocks = try layer.state.withLock { state throws(ServiceError) in
                guard state.length >= length else {
                    throw fail(
                        .positionMismatch,
                        "Layer \(index) of \(id) has \(state.length) tokens on \(rank) and cannot be committed up to "
                            + "\(length); append the rest first.")
                }
                return lease(state, upTo: sealed.upperBound)
            }
            plan.sealing.layers.append(blocks)
        }
        // A commit of ids or of an annotation alone writes no rows, and may be of a sequence whose rows are damaged.
        guard remainingRows(plan).rowEnd < shard.end(of: length) else { return }
        plan.open = try sources(of: openRows(committed: length), plan.sequence, plan.sealing.lineage)
    }

    /// The rows in the store that stay.
    private func remainingRows(_ plan: CommitPlan) -> Lineage {
        plan.rows.dropping(before: shard.start(ofBlock: plan.sealed.upperBound))
    }

    private func write(_ plan: inout CommitPlan, _ transaction: inout WriteTransaction) throws {
        let sequence = plan.sequence
        try write(&plan.sealing, &transaction)
        if !plan.sealed.isEmpty { FailPoint.commitSealed.pass() }
        plan.formerRows = plan.rows
        plan.rows = remainingRows(plan)
        try putRows(
            plan.rows.rowEnd..<shard.end(of: plan.length), of: sequence, blocks: plan.open, behind: &plan.rows,
            &transaction)
        plan.rest = try delete(replaceRows(of: sequence, by: plan.rows), &transaction)
        try writeTokens(&plan.tokens, length: plan.length, &transaction)
        let record = StoredSequence(
            sequence, committed: plan.length, lineage: plan.sealing.lineage.covering(plan.sealed.upperBound),
            rows: plan.rows, tokens: plan.tokens.record, lastChange: plan.change, claim: plan.claim)
        try transaction.put(tables.sequences, StoredSequence.key(sequence.id), record.encoded(sequence.id))
    }

    private func apply(_ plan: CommitPlan) {
        let sequence = plan.sequence
        stored(plan.change)
        tokensCommitted(sequence, plan.tokens.record)
        let tokens = shard.range(of: plan.committed..<plan.length)
        sequence.core.withLock { core in
            core.committed = plan.length
            core.floor = plan.length
            core.lastChange = plan.change
            core.residence?.note(blocks: plan.sealed.upperBound)
            for (number, layer) in core.layers.enumerated() {
                layer.state.withLock {
                    releaseUncommitted(sequence, layer: number, tokens, sealed: $0.mapped.count)
                }
            }
        }
        if !plan.rest.isEmpty { sweepLater(Doomed(rows: plan.rest)) }
        do throws(StoreError) {
            try apply(plan.sealing)
        } catch {
            sequence.markDamaged(
                from: shard.start(ofBlock: plan.sealed.lowerBound),
                "The blocks of \(sequence.id) cannot be read back from the store of \(rank): \(error)")
        }
    }
}
