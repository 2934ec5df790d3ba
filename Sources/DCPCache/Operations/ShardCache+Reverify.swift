internal import DCPAttention
public import DCPCore
internal import DCPStore
internal import Synchronization

/// What the check found that follows a failed sync.
public struct Reverification: Hashable, Sendable {
    public var blocks = 0
    /// Sequences with something damaged, which is not served.
    public var damagedSequences: [SequenceID] = []
}

extension ShardCache {
    /// The check of a store that was marked suspect, nil when it was not.
    public var reverification: Reverification? { reverified.withLock { $0 } }

    /// Reads every block and every tail row of a store in which a sync had failed, before anything of it is served. The
    /// page cache was dropped before, so it is the disk that is read.
    ///
    /// What is damaged stays so in memory; the mark goes, since each further start compares checksums at the first use.
    /// - Throws: `.storeDamaged` when the disk still does not sync.
    func reverifyIfSuspect() throws(ServiceError) {
        guard environment.isSuspect else { return }
        var result = Reverification()
        for sequence in sequenceCaches.withLock({ $0.values.sorted { $0.id < $1.id } }) {
            let lineage = lineages.withLock { $0[sequence.id] }
            for (layer, state) in sequence.layers.enumerated() {
                for (index, address) in state.state.withLock({ $0.mapped }).enumerated() {
                    result.blocks += 1
                    do throws(ServiceError) {
                        try checkBlock(sequence, layer: layer, index: index, address: address, lineage: lineage)
                    } catch {
                        sequence.markDamaged(fromLocalIndex: index * blockTokens, error.message)
                    }
                }
            }
            let core = try prepare(sequence)
            if core.damage != nil { result.damagedSequences.append(sequence.id) }
        }
        result.damagedSequences += damagedSequences
        try mapping { () throws(StoreError) in try environment.sync() }
        environment.mark(suspect: false)
        reverified.withLock { $0 = result }
    }
}
