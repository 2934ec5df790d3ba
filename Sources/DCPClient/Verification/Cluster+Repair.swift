// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import DCPWire

/// A damaged sequence, and its intact length on all ranks.
public struct SequenceRepair: Hashable, Sendable {
    public let sequence: SequenceHandle
    /// The committed length; nil when a rank has lost the sequence's record.
    public let committedLength: Int?
    /// The last good position on all ranks: what the repair keeps.
    public let intactLength: Int
    /// Whether a rank has lost the sequence's record: it is then closed and opened again, empty.
    public let isRecordLost: Bool
    /// Whether some rank has damaged token ids or a damaged annotation, which are restored from another rank.
    public let restoresTokens: Bool
}

extension Cluster {
    /// The repairs for the damage that a verification found.
    ///
    /// Changes nothing. A damaged block of one rank makes everything unusable from the global position of its first
    /// token on; a sequence is cut to the smallest of these positions over all ranks. Each fork that shares the block
    /// is damaged as well.
    public func repairs(for ranks: [RankVerification]) async throws(ServiceError) -> [SequenceRepair] {
        var intact: [SequenceID: Int] = [:]
        var (lost, restored): (Set<SequenceID>, Set<SequenceID>) = ([], [])
        for finding in ranks.flatMap(\.findings) where finding.isDamage {
            if [.tokenIDs, .annotation].contains(finding.kind) {
                if let id = finding.sequence { restored.insert(id) }
                continue
            }
            guard let id = finding.sequence, let length = finding.intactLength else { continue }
            intact[id] = min(intact[id] ?? .max, length)
            if finding.kind == .record, length == 0 { lost.insert(id) }
        }
        let damaged = try await sequences().filter {
            intact[$0.record.id] != nil || restored.contains($0.record.id)
        }
        let progress = try await statuses(of: damaged)
        return damaged.sorted { $0.record.id < $1.record.id }.map { sequence in
            let id = sequence.record.id
            let committed = progress[id]?.committedLength
            return SequenceRepair(
                sequence: sequence, committedLength: committed, intactLength: intact[id] ?? committed ?? 0,
                isRecordLost: lost.contains(id), restoresTokens: restored.contains(id))
        }
    }

    /// Truncates a damaged sequence to its last good position on all ranks, up to which it is served again, and
    /// restores damaged token ids and annotations from a rank that has them intact.
    /// - Throws: the error of the truncation; the sequence is then unchanged. `.storeDamaged` if no rank has the ids.
    public func repair(_ repair: SequenceRepair) async throws(ServiceError) {
        let name = repair.sequence.record.name
        if repair.isRecordLost {
            try await closeSequence(name)
            _ = try await openSequence(name, model: repair.sequence.model.name, scope: repair.sequence.record.scope)
            return
        }
        let committed = try await status(of: repair.sequence).committedLength
        // Another client has cut it shorter meanwhile: the damage is gone.
        if committed > repair.intactLength { try await cut(name, to: repair.intactLength) }
        if repair.restoresTokens { try await restoreTokens(of: repair.sequence) }
    }

    /// A rank rewrites what it cannot read, and compares the rest.
    private func restoreTokens(of sequence: SequenceHandle) async throws(ServiceError) {
        let id = sequence.record.id
        let length = try await status(of: sequence).committedLength
        var part = SequenceCommit(sequence: id, length: length)
        do throws(ServiceError) {
            part.tokens = TokenIDs(start: 0, ids: try await tokenIDs(of: id, 0..<length))
        } catch {
            // It has none: only its annotation is damaged.
            guard error.code == .positionMismatch else { throw error }
        }
        do throws(ServiceError) {
            part.annotation = try await annotation(of: id)
        } catch {
            // Damaged on all ranks: it is lost.
            guard error.code == .storeDamaged else { throw error }
            part.annotation = []
        }
        try await commit([part])
    }
}
