// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import DCPStore
internal import Synchronization

/// The findings of the verification after a failed sync.
public struct Reverification: Hashable, Sendable {
    public var progress = VerificationProgress()
    /// Sequences with something damaged, which is not served.
    public var damagedSequences: [SequenceID] = []
    public var findings: [StoreFinding] = []
}

extension ShardCache {
    /// The verification of a store that was marked suspect, nil when it was not.
    public var reverification: Reverification? { reverified.withLock { $0 } }

    /// Reads everything of a store in which a sync had failed, before anything of it is served. The page cache was dropped
    /// before, so it is the disk that is read.
    ///
    /// What is damaged is not served from then on; the mark goes, since each further start compares checksums at the first
    /// use.
    /// - Throws: `.storeDamaged` when the disk still does not sync.
    func reverifyIfSuspect(_ progress: LoadProgress?) throws(ServiceError) {
        guard environment.isSuspect else { return }
        var result = Reverification()
        let verification = verification()
        var batch: StoreVerification.Batch
        repeat {
            batch = try verification.advance()
            result.findings += batch.findings
            progress?.verifiedBatch()
        } while !batch.isDone
        result.progress = batch.progress
        let damaged = result.findings.filter(\.isDamage).compactMap(\.sequence)
        result.damagedSequences = Set(damaged + damagedSequences).sorted()
        try mapping { () throws(StoreError) in
            try environment.sync()
            try environment.mark(suspect: false)
        }
        reverified.withLock { $0 = result }
    }
}
