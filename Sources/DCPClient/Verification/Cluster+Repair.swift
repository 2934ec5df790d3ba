public import DCPCore
internal import DCPWire

/// A damaged sequence, and how far it goes on being good on all ranks.
public struct SequenceRepair: Hashable, Sendable {
    public let sequence: SequenceHandle
    /// The committed length; nil when a rank has lost the sequence's record.
    public let committedLength: Int?
    /// The last good position on all ranks: what the repair keeps.
    public let intactLength: Int
    /// Whether a rank has lost the sequence's record: it is then closed and opened again, empty.
    public let isRecordLost: Bool
}

extension Cluster {
    /// What would have to be done about the damage that a verification found. Changes nothing.
    ///
    /// A damaged local block of one rank makes everything bad from the global position of its first token on; the least of
    /// these positions over all ranks is where a sequence is cut. Each fork that shares the block is damaged as well.
    public func repairs(for ranks: [RankVerification]) async throws(ServiceError) -> [SequenceRepair] {
        var intact: [SequenceID: Int] = [:]
        var lost: Set<SequenceID> = []
        for finding in ranks.flatMap(\.findings) where finding.isDamage {
            guard let id = finding.sequence, let length = finding.intactLength else { continue }
            intact[id] = min(intact[id] ?? .max, length)
            if finding.kind == .record, length == 0 { lost.insert(id) }
        }
        let damaged = try await sequences().filter { intact[$0.record.id] != nil }
        let progress = try await statuses(of: damaged)
        return damaged.sorted { $0.record.id < $1.record.id }.map { sequence in
            let id = sequence.record.id
            return SequenceRepair(
                sequence: sequence, committedLength: progress[id]?.committedLength, intactLength: intact[id] ?? 0,
                isRecordLost: lost.contains(id))
        }
    }

    /// Cuts a damaged sequence back to its last good position, on all ranks. It serves again up to there.
    /// - Throws: what the truncation throws; the sequence is then as it was.
    public func repair(_ repair: SequenceRepair) async throws(ServiceError) {
        let name = repair.sequence.record.name
        if repair.isRecordLost {
            try await closeSequence(name)
            _ = try await openSequence(name, model: repair.sequence.model.name)
            return
        }
        let committed = try await status(of: repair.sequence).committedLength
        // Somebody has cut it shorter meanwhile: then the damage is gone.
        guard committed > repair.intactLength else { return }
        try await cut(name, to: repair.intactLength)
    }
}
