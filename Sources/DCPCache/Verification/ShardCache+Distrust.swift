// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPStore
internal import Synchronization

extension ShardCache {
    /// Stops serving what a verification found damaged.
    ///
    /// On the writer's thread, which truncates and commits: what was found may have been cut off since, and what is in
    /// its place is good.
    func distrust(_ suspects: [Suspect]) {
        let unreadable = Set(suspects.filter { $0.finding.kind == .tokenIDs }.compactMap(\.finding.sequence))
        for id in unreadable {
            enqueue([Self.key(id)], isInternal: true, { _ in }, body: { _ in }, apply: { [self] in recheckIDs(of: id) })
        }
        let damaged = suspects.filter { $0.finding.isDamage && $0.start != nil }
        guard !damaged.isEmpty else { return }
        let keys = Set(damaged.compactMap(\.finding.sequence)).map(Self.key)
        enqueue(keys, isAlone: true, isInternal: true, { _ in }) { [self] transaction in
            for suspect in damaged {
                guard let id = suspect.finding.sequence, let start = suspect.start,
                    let sequence = sequenceCaches.withLock({ $0[id] }), let lineage = lineages.withLock({ $0[id] })
                else { continue }
                let isStill: Bool
                if let writer = suspect.writer {
                    isStill = lineage.writer(ofBlock: shard.block(of: start).block) == writer
                } else {
                    isStill = try isBadRow(start, of: sequence, transaction)
                }
                if isStill { sequence.markDamaged(from: start, suspect.finding.message.withoutStop) }
            }
        }
    }

    /// A record that is damaged in the store and good in memory is written again: nothing is lost.
    func restoreRecord(_ suspect: Suspect) -> Suspect {
        guard suspect.finding.kind == .record, let id = suspect.finding.sequence, let state = state(of: id) else {
            return suspect
        }
        enqueue([Self.key(id)], isInternal: true, { _ in }) { [self] transaction in
            guard let sequence = sequenceCaches.withLock({ $0[id] }), let lineage = lineages.withLock({ $0[id] }),
                let rows = rowLineages.withLock({ $0[id] }), let tokens = tokens.withLock({ $0[id] })
            else { return }
            let key = StoredSequence.key(id)
            if let value = try transaction.get(tables.sequences, key), StoredSequence(id, value) != nil { return }
            let core = sequence.core.withLock { $0 }
            let record = StoredSequence(
                sequence, committed: core.committed,
                lineage: lineage.covering(shard.fullBlocks(of: core.committed)), rows: rows, tokens: tokens,
                lastChange: core.lastChange, claim: core.claim)
            try transaction.put(tables.sequences, key, record.encoded(id))
        }
        var restored = suspect
        restored.finding.intactLength = state.committedLength.value
        restored.finding.message =
            "The record of \(id) on \(rank) failed its checksum; it is rewritten from memory, and nothing is lost. "
            + "Verify again."
        return restored
    }

    private func isBadRow(
        _ index: LocalIndex, of sequence: SequenceCache, _ transaction: borrowing WriteTransaction
    ) throws -> Bool {
        guard let writer = rowLineages.withLock({ $0[sequence.id] })?.writer(of: index) else { return false }
        let key = TailRecord.key(writer: writer, localIndex: index)
        let isGood = try transaction.withValue(tables.tail, key) {
            TailRecord.rows(key: key, $0, layout: sequence.model.tail) != nil
        }
        return isGood != true
    }
}

extension String {
    /// Without the final full stop: `checkIntact` appends the remedy.
    fileprivate var withoutStop: String { hasSuffix(".") ? String(dropLast()) : self }
}
