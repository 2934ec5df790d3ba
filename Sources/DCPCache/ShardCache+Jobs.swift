// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPStore
internal import Synchronization

/// The state that a job passes from its body to its undo and its apply.
///
/// @unchecked Sendable: all three run on the writer's thread, one after the other.
final class Handoff<Value>: @unchecked Sendable {
    var value: Value

    init(_ value: Value) { self.value = value }
}

extension ShardCache {
    static let epochKey = WriteJob.Key(space: 0, value: 0)
    static func key(_ id: SequenceID) -> WriteJob.Key { WriteJob.Key(space: 1, value: id.value) }

    /// Hands an operation to the writer; see the DESIGN comment of `ShardCache` for the parts.
    /// - Parameter usesReserve: takes the reserve of a full store, as a freeing operation does, but frees nothing.
    func enqueue(
        _ keys: [WriteJob.Key], reading readKeys: [WriteJob.Key] = [], isAlone: Bool = false, isFreeing: Bool = false,
        usesReserve: Bool = false, isSynced: Bool = false,
        isInternal: Bool = false, isOptional: Bool = false,
        _ completion: @escaping CacheCompletion,
        body: @escaping @Sendable (inout WriteTransaction) throws -> Void,
        undo: @escaping @Sendable () -> Void = {},
        apply: @escaping @Sendable () -> Void = {}
    ) {
        let written = Handoff<DirectoryMark?>(nil)
        let job = WriteJob(
            keys: keys, reading: readKeys, isAlone: isAlone, isFreeing: isFreeing || usesReserve, isSynced: isSynced,
            isOptional: isOptional,
            body: { [self] transaction in
                try body(&transaction)
                written.value = try writeDirectoryMark(&transaction)
            }, undo: undo
        ) { [self] in
            switch $0 {
            case .success:
                apply()
                if let mark = written.value { directoryMarks.withLock { $0.stored = max($0.stored, mark) } }
                if isFreeing { turnOver() }
                retryDeletions()
                completion(.success(()))
            case .failure(let error):
                completion(.failure(ServiceError(any: error, rank: rank)))
            }
        }
        if isInternal { writer.submitInternal(job) } else { writer.submit(job) }
    }

    /// Makes freed pages usable. LMDB reuses the pages that transaction N frees in N + 2 at the earliest, and a commit
    /// that fails for lack of them makes no transaction: on a full store this job does.
    private func turnOver() {
        writer.submitInternal(
            WriteJob(
                isFreeing: true, body: tables.rewrite,
                // Speeds up what would happen anyway; a store that cannot write says so at the next commit.
                completion: { [self] _ in
                    retryDeletions()
                    pieced.withLock { $0.noteFreed() }
                    healPieces()
                }))
    }

    /// A writer number that was never given out before. Taken in the transaction, so an aborted one gives it back.
    func takeWriter(_ transaction: inout WriteTransaction) throws -> UInt64 {
        guard let number = try transaction.number(Counter.writer, tables.meta) else {
            throw fail(
                .storeDamaged,
                "The writer counter of the store \(environment.directory) is damaged; move the store away and "
                    + "restart the rank, which then starts empty.")
        }
        try transaction.put(number + 1, Counter.writer, tables.meta)
        return number
    }
}
