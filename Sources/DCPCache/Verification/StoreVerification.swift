// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import DCPStore
internal import Synchronization

/// A check of every checksum, key and count in a store: `dcpctl verify`.
///
/// It works in batches, each in its own read transaction, because a reader active for the whole check would prevent
/// every page freed meanwhile from being reused. The record, blocks and tail rows of a sequence are compared within one
/// transaction, so commits and truncations between two batches do not count as damage.
///
/// LMDB's own pages have no checksum. Damage in them shows as values that are missing, misplaced or not readable.
///
/// Threads: `advance` from any thread, one call at a time; it blocks on the disk.
public final class StoreVerification: Sendable {
    /// One batch's outcome.
    public struct Batch: Sendable {
        public var findings: [StoreFinding] = []
        public var progress: VerificationProgress
        public var isDone: Bool
    }

    /// The store this is about.
    public let rank: RankIndex
    public let cluster: ClusterShape
    public let storeID: StoreID
    /// The names of the sequences, for a store that was opened only for this.
    public let names: [SequenceID: String]
    private let check: Mutex<StoreCheck>
    /// Whom to tell of damage, so that it is never served; nil for a store that no rank serves.
    private let cache: ShardCache?
    /// Held for a store that was opened for this alone.
    private let owned: Environment?

    private init(
        _ check: consuming StoreCheck, storeID: StoreID, names: [SequenceID: String] = [:], cache: ShardCache?,
        owned: Environment?
    ) {
        rank = check.rank
        cluster = check.cluster
        self.storeID = storeID
        self.names = names
        self.check = Mutex(check)
        self.cache = cache
        self.owned = owned
    }

    /// A check of the store of a serving rank. Damage that it finds is not served from then on.
    /// - Parameter sequence: only this one, or all.
    convenience init(cache: ShardCache, sequence: SequenceID?, batchByteCount: Int) {
        let check = StoreCheck(
            rank: cache.rank, cluster: cache.cluster, environment: cache.environment, tables: cache.tables,
            sequence: sequence, batchByteCount: batchByteCount,
            isInUse: { key in cache.lineages.withLock { $0.isCovered(writer: key.writer, block: key.index) } })
        self.init(check, storeID: cache.storeID, cache: cache, owned: nil)
    }

    /// Opens the store of a rank that is stopped, to read it; nothing in it is changed.
    /// - Parameter sequence: the name of the only one to be checked; nil for all.
    /// - Throws: `.unknownSequence` when there is none of that name. `.storeRefused` when it is in use or no store; `.storeDamaged` when the file is shorter than its pages,
    ///   or the superblock cannot be read.
    public static func open(directory: String, sequence: String? = nil) throws(ServiceError) -> StoreVerification {
        do {
            let environment = try Environment(readingDirectory: directory, tablesMax: CacheTables.count)
            do {
                let tables = try CacheTables(reading: environment)
                let superblock = try superblock(environment, tables)
                let names = try names(environment, tables)
                let id = names.first { NameKey($0.value) == NameKey(sequence ?? "") }?.key
                if let sequence, id == nil {
                    throw ServiceError(
                        .unknownSequence, "The store \(directory) has no sequence `\(sequence)`.")
                }
                let check = StoreCheck(
                    rank: RankIndex(UInt16(truncatingIfNeeded: superblock.rank)), cluster: try superblock.cluster(),
                    environment: environment, tables: tables, sequence: id)
                return StoreVerification(
                    check, storeID: superblock.storeID, names: names, cache: nil, owned: environment)
            } catch {
                environment.close()
                throw error
            }
        } catch let error as ServiceError {
            throw error
        } catch let error as StoreError {
            guard error.code == .inUse else { throw ServiceError(error, rank: nil) }
            throw ServiceError(
                .storeRefused,
                "\(error.message) While a rank serves it, verify it through the cluster: dcpctl verify without --store."
            )
        } catch {
            throw ServiceError(.internal, "\(error)")
        }
    }

    /// Of the sequences whose record can be read.
    private static func names(_ environment: Environment, _ tables: CacheTables) throws -> [SequenceID: String] {
        var names: [SequenceID: String] = [:]
        try environment.beginRead().scan(tables.sequences) { key, value in
            guard key.count == 8 else { return true }
            let id = SequenceID(RecordReader.key(key, at: 0))
            if let name = StoredSequence(id, value)?.name, !name.isEmpty { names[id] = name }
            return true
        }
        return names
    }

    private static func superblock(_ environment: Environment, _ tables: CacheTables) throws -> Superblock {
        let read = try environment.beginRead()
        guard let value = try read.get(tables.meta, Superblock.key) else {
            throw ServiceError(
                .storeRefused, "\(environment.directory) holds an LMDB file that is not the store of a rank.")
        }
        guard let found = Superblock(value) else {
            throw ServiceError(
                .storeDamaged,
                "The superblock of the store \(environment.directory) fails its checksum, so the shape of its "
                    + "contents is unknown; restore it, or move the store away and start with an empty one: dcpctl "
                    + "store replace RANK."
            )
        }
        guard found.format == UInt32(LayoutFingerprint.storeFormat) else {
            throw ServiceError(
                .storeRefused,
                "The store \(environment.directory) has format \(found.format); this build reads format "
                    + "\(LayoutFingerprint.storeFormat). Use the build that wrote it.")
        }
        return found
    }

    /// Checks the next part of the store, some megabytes of it.
    /// - Throws: `.overloaded` or `.shuttingDown` when no reader could begin; the part is then checked by the next call.
    ///   `.unknownSequence` for a sequence that the store does not hold.
    public func advance() throws(ServiceError) -> Batch {
        let rank = rank
        let (batch, suspects) = try check.withLock { check throws(ServiceError) in
            do {
                let found = try check.advance().map { cache?.restoreRecord($0) ?? $0 }
                let batch = Batch(findings: found.map(\.finding), progress: check.progress, isDone: check.isDone)
                return (batch, found)
            } catch {
                throw ServiceError(any: error, rank: rank)
            }
        }
        cache?.distrust(suspects)
        return batch
    }

    /// Releases a store that was opened for this alone. Idempotent.
    public func close() { owned?.close() }

    deinit { close() }
}

extension ShardCache {
    /// A verification of this store while it serves.
    /// - Parameters:
    ///   - sequence: only this one, or all.
    ///   - batchByteCount: how much one batch reads, and so how long its reader lives.
    public func verification(of sequence: SequenceID? = nil, batchByteCount: Int = 4 << 20) -> StoreVerification {
        StoreVerification(cache: self, sequence: sequence, batchByteCount: batchByteCount)
    }
}

extension Superblock {
    /// The shape it was written for. The exchange is no part of a store.
    func cluster() throws(ServiceError) -> ClusterShape {
        try ClusterShape(
            ranks: Int(ranks), headGroups: Int(headGroups), interleave: Int(interleave), blockTokens: Int(blockTokens),
            exchange: .allToAll)
    }
}
