// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
public import DCPCore
internal import DCPStore
internal import Synchronization

/// The KV cache of one rank: its shard of every sequence, in an LMDB store, with open blocks in RAM.
///
/// DESIGN. Sealed blocks are immutable values in the map that kernels read in place. The open block of each layer, and
/// full blocks that are not committed yet, are in RAM in the same layout; when these become too many, some are sealed
/// before the commit that counts them. A commit writes everything that becomes durable in one transaction; then the
/// mapped copies replace the RAM blocks that it sealed. All durable changes run on one thread, the writer's, in three
/// parts: `body` checks, plans from memory and writes; `undo` restores the state in memory if the transaction fails;
/// `apply` changes memory once it has committed.
///
/// Threads: every method may be called from any thread. None of them blocks on the store except `close()`, and the
/// first use of a sequence after a start, which reads its tail.
public final class ShardCache: Sendable {
    public let rank: RankIndex
    public let cluster: ClusterShape
    public let shard: Shard
    public let settings: Settings
    public let storeID: StoreID

    let environment: Environment
    let tables: CacheTables
    let writer: Writer
    let modelEntries: Mutex<[ModelID: ModelEntry]>
    let sequenceCaches: Mutex<[SequenceID: SequenceCache]>
    /// Sequences whose record is damaged: nothing of them can be served, only `close` accepts them.
    let damagedRecords: Mutex<[SequenceID: String]>
    /// Changed by the writer's thread only: of a cut and of a close in the body, so that those behind it in the transaction
    /// see what is no longer covered, and taken back by the undo. They cover spilled blocks, too.
    let lineages: Mutex<LineageTable>
    /// The writers of the committed tail rows of open blocks, by local index. Changed like `lineages`.
    let rowLineages: Mutex<LineageTable>
    /// The last one: further forks in its block share what it has. Writer's thread only.
    let reopening = Mutex<Reopening?>(nil)
    /// Unreferenced values that are not deleted yet. Changed only by the writer's thread.
    let doomed: Mutex<Doomed>
    /// Token ids and annotations. Changed by the writer's thread only, but for what turns out to be unreadable. Held while a
    /// match reads.
    let tokens: Mutex<TokenTable>
    /// Blocks in pieces. Changed by the writer's thread only.
    let pieced: Mutex<PiecedBlocks>
    let epoch: Mutex<Epoch>
    let joinedCluster: Mutex<ClusterID>
    /// How far the directory has come: as was told last, and as is in the store.
    let directoryMarks: Mutex<(told: DirectoryMark, stored: DirectoryMark)>
    /// The highest of models and sequences that were ever in the store.
    let numbers: Mutex<(model: UInt64, sequence: UInt64)>
    /// The last place given in the order of changes.
    let changes: Atomic<UInt64>
    /// The highest that is in a committed transaction, and in one that is known to be on the disk. Changed by the writer's
    /// thread only.
    let storedChange: Atomic<UInt64>
    let durableChange = Atomic<UInt64>(0)
    let readers = ByteAccount()
    let tokenCount = Mutex(TokenCount())
    let memory: BlockPool
    /// Sequences that have something in RAM, and the bytes of that without blocks.
    let residents: Mutex<Set<SequenceID>> = Mutex([])
    let indexes = ByteAccount()
    /// The order of uses: rises with each.
    let useCounter = Atomic<UInt64>(0)
    let idleMark = Atomic<UInt64>(0)
    let isRelieving = Atomic(false)
    /// Resident bytes that were left when all else was in use.
    let reliefMark = Atomic(0)
    /// Bytes of rows that are appended and not committed: those in RAM, and those that were spilled.
    let uncommitted = ByteAccount()
    let spilled = ByteAccount()
    let spills = Mutex(SpillQueue())
    let refusedDeletions = Mutex(RefusedDeletions())
    /// Blocks, since the start.
    let spilledBlocks = Atomic<UInt64>(0)
    /// Bytes of blocks in pieces that were put together in RAM, and stay there, or are of one step each.
    let keptPieces = ByteAccount()
    let borrowedPieces = ByteAccount()
    let reverified = Mutex<Reverification?>(nil)
    let conditionObserver = Mutex<(@Sendable (StoreHealth) -> Void)?>(nil)

    init(
        rank: RankIndex, cluster: ClusterShape, settings: Settings, environment: Environment, tables: CacheTables,
        writer: Writer, content: StoreContent
    ) {
        self.rank = rank
        self.cluster = cluster
        shard = Shard(cluster.layout, contextRank: cluster.contextRank(of: rank))
        self.settings = settings
        self.environment = environment
        self.tables = tables
        self.writer = writer
        storeID = content.storeID
        memory = BlockPool(spareByteCountMax: settings.spareByteCountMax)
        modelEntries = Mutex(content.models)
        sequenceCaches = Mutex(content.sequences)
        damagedRecords = Mutex(content.damagedRecords)
        lineages = Mutex(content.lineages)
        rowLineages = Mutex(content.rowLineages)
        doomed = Mutex(content.doomed)
        tokens = Mutex(content.tokens)
        pieced = Mutex(PiecedBlocks(content.pieced))
        epoch = Mutex(content.epoch)
        joinedCluster = Mutex(content.clusterID)
        directoryMarks = Mutex((content.directoryMark, content.directoryMark))
        numbers = Mutex((content.modelNumber, content.sequenceNumber))
        changes = Atomic(content.change)
        storedChange = Atomic(content.change)
        writer.observeSync { [weak self] in self?.noteSync() }
        writer.observeCondition { [weak self] in self?.conditionChanged($0) }
    }

    /// Goes on with what the process before has left.
    func tidy() {
        if doomed.withLock({ !$0.isEmpty }) { sweep() }
        healPieces()
    }

    var blockTokens: Int { shard.blockTokens }

    /// Refuses further operations, runs those that wait, syncs and releases the store. Idempotent.
    ///
    /// The lock on the directory is released at once, or when the last `ContextReader` ends.
    public func close() {
        writer.close()
        environment.close()
    }

    /// Releases the store as the death of the process would: nothing that waits is written, nothing is synced. With a
    /// writer's host only.
    package func abandon() {
        writer.abandon()
        // Released here, not with the mutex held: one may hold the last reference to what owns this.
        withExtendedLifetime(spills.withLock { $0.abandon() }) {}
        environment.close()
    }

    /// The environment closes itself with its last reference. The writer's thread may release the cache last, and syncs
    /// after that.
    deinit { writer.close() }

    // MARK: Epoch

    /// The highest membership epoch that has been persisted.
    public var highestEpoch: Epoch { epoch.withLock { $0 } }

    /// The cluster that the store belongs to: of the first epoch that was persisted.
    public var clusterID: ClusterID { joinedCluster.withLock { $0 } }

    /// The highest numbers of models and sequences that were ever in the store.
    public var highestNumbers: (model: UInt64, sequence: UInt64) { numbers.withLock { $0 } }

    /// Persists an epoch of a cluster. A lower one than the highest succeeds and changes nothing, and a store that belongs to
    /// a cluster stays with it.
    public func persist(epoch wanted: Epoch, of joined: ClusterID = .none, completion: @escaping CacheCompletion) {
        // Uses the reserve of a full store: if the rank could not join, no client could free space. An earlier
        // directory mark belongs to an earlier epoch, possibly of a coordinator whose state is lost.
        directoryMarks.withLock { $0.told = .none }
        enqueue([Self.epochKey], isFreeing: true, completion) { [tables] transaction in
            if wanted.value > (try transaction.number(Counter.epoch, tables.meta)) ?? 0 {
                try transaction.put(wanted.value, Counter.epoch, tables.meta)
                try transaction.put(0, Counter.directory, tables.meta)
            }
            if joined != .none, try transaction.number(Counter.cluster, tables.meta) == 0 {
                try transaction.put(joined.value, Counter.cluster, tables.meta)
            }
        } apply: { [self] in
            let isNew = epoch.withLock { epoch in
                defer { epoch = max(epoch, wanted) }
                return wanted > epoch
            }
            if isNew { directoryMarks.withLock { $0.stored = .none } }
            joinedCluster.withLock { if $0 == .none { $0 = joined } }
        }
    }

    /// How far the store knows the directory to have come in its epoch.
    public var directoryMark: DirectoryMark { directoryMarks.withLock { $0.stored } }

    /// Sets the directory mark. The store records it with the next write; nothing is written for it alone.
    public func note(_ mark: DirectoryMark) { directoryMarks.withLock { $0.told = max($0.told, mark) } }

    /// Writes how far the directory has come, where the store does not know.
    /// - Returns: what is in the transaction then; nil where nothing was to be written.
    func writeDirectoryMark(_ transaction: inout WriteTransaction) throws -> DirectoryMark? {
        let (told, stored) = directoryMarks.withLock { $0 }
        guard told > stored else { return nil }
        try transaction.raise(Counter.directory, to: told.value, tables.meta)
        return told
    }

    // MARK: Looking things up

    func fail(_ code: ServiceError.Code, _ message: String) -> ServiceError { ServiceError(code, message, rank: rank) }

    func sequence(_ id: SequenceID) throws(ServiceError) -> SequenceCache {
        if let found = sequenceCaches.withLock({ $0[id] }) { return found }
        if let message = damagedRecords.withLock({ $0[id] }) { throw fail(.storeDamaged, message) }
        throw unknown(id)
    }

    func unknown(_ id: SequenceID) -> ServiceError {
        failure ?? fail(.unknownSequence, "\(id) is not in the store of \(rank); open it first.")
    }

    /// Runs a store access, with its error in the words of the service.
    func mapping<Result: ~Copyable>(_ access: () throws(StoreError) -> Result) throws(ServiceError) -> Result {
        do throws(StoreError) {
            return try access()
        } catch {
            throw ServiceError(error, rank: rank)
        }
    }
}
