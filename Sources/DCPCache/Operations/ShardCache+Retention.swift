// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import DCPStore
internal import Synchronization

extension ShardCache {
    /// Records the retention of a sequence. The coordinator uses its own record; this one is for the case that it is
    /// lost. It does not count in the order of changes, because the tokens are unchanged.
    public func retain(_ id: SequenceID, _ retention: Retention, completion: @escaping CacheCompletion) {
        // From the reserve of a full store: what is to stay is decided when there is no room.
        enqueue([Self.key(id)], isFreeing: true, completion) { [self] transaction in
            guard try sequence(id).core.withLock(\.retention) != retention else { return }
            let key = StoredSequence.key(id)
            guard let value = try transaction.get(tables.sequences, key), var record = StoredSequence(id, value) else {
                throw fail(
                    .storeDamaged,
                    "The record of \(id) in the store of \(rank) is damaged; `dcpctl verify` rewrites it from memory."
                )
            }
            record.retention = retention
            try transaction.put(tables.sequences, key, record.encoded(id))
        } apply: { [self] in
            sequenceCaches.withLock { $0[id] }?.core.withLock { $0.retention = retention }
        }
    }
}
