// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import DCPStore

/// The tables of a rank's store.
struct CacheTables: Sendable {
    let meta: Table
    let models: Table
    let sequences: Table
    let blocks: Table
    let tail: Table
    let tokens: Table
    let annotations: Table

    static let count = 7

    init(_ transaction: inout WriteTransaction) throws(StoreError) {
        meta = try transaction.openTable("meta")
        models = try transaction.openTable("models")
        sequences = try transaction.openTable("sequences")
        blocks = try transaction.openTable("blocks")
        tail = try transaction.openTable("tail")
        tokens = try transaction.openTable("tokens")
        annotations = try transaction.openTable("annotations")
    }

    /// A transaction without changes: afterwards pages freed by the one before can be reused.
    @Sendable func rewrite(_ transaction: inout WriteTransaction) throws {
        guard let stored = try transaction.get(meta, Counter.writer) else { return }
        try transaction.put(meta, Counter.writer, Array(stored))
    }

    /// Of a store that is only read.
    init(reading environment: Environment) throws(StoreError) {
        let names = ["meta", "models", "sequences", "blocks", "tail", "tokens", "annotations"]
        let found = try environment.openTables(reading: names)
        (meta, models, sequences, blocks, tail) = (found[0], found[1], found[2], found[3], found[4])
        (tokens, annotations) = (found[5], found[6])
    }
}

extension ShardCache {
    /// Opens the store of a rank, or makes it when the directory is missing or empty.
    ///
    /// Reads keys and records only, no payload: the time depends on the number of blocks, not on their size. After a sync
    /// that failed it reads everything.
    /// - Parameter progress: counts while it reads.
    /// - Throws: `.storeRefused` for a store in use, of another rank, cluster or format, or a path that is not a
    ///   directory; `.storeDamaged` for a truncated file or a damaged superblock or model; `.storeFull`.
    public static func open(
        directory: String, rank: RankIndex, cluster: ClusterShape, settings: Settings = Settings(),
        progress: LoadProgress? = nil
    ) throws(ServiceError) -> ShardCache {
        precondition(Int(rank.value) < cluster.ranks, "the rank is outside its cluster")
        do {
            let environment = try Environment(
                directory: directory, mapByteCountMax: settings.mapByteCountMax, tablesMax: CacheTables.count,
                durability: settings.durability, checkedPage: { progress?.checkedPage() })
            do {
                return try environment.withoutReadAhead {
                    try open(environment, rank: rank, cluster: cluster, settings: settings, progress)
                }
            } catch {
                environment.close()
                throw error
            }
        } catch {
            throw ServiceError(any: error, rank: rank)
        }
    }

    private static func open(
        _ environment: Environment, rank: RankIndex, cluster: ClusterShape, settings: Settings,
        _ progress: LoadProgress?
    ) throws -> ShardCache {
        var transaction = try environment.beginSetup()
        let isNew = try transaction.rootEntries() == 0
        let tables = try CacheTables(&transaction)
        let wanted = Superblock(rank: rank, cluster: cluster, storeID: settings.newStoreID ?? .random())
        if isNew {
            try transaction.put(tables.meta, Superblock.key, wanted.encoded())
            for key in Counter.all { try transaction.put(key == Counter.writer ? 1 : 0, key, tables.meta) }
        } else {
            try check(transaction.get(tables.meta, Superblock.key), wanted: wanted, environment.directory)
        }
        try transaction.commit()
        if !environment.wasCreated {
            // Durable whatever the setting: a rank must not forget which store it is. Also of a store that a process made
            // which was killed before it could mark it.
            try environment.sync()
            try environment.markCreated()
        }
        var loader = StoreLoader(
            rank: rank, cluster: cluster, environment: environment, tables: tables, progress: progress)
        let content = try loader.load()
        if let faults = settings.faults { environment.inject(faults) }
        let writer = try Writer(
            environment: environment, durability: settings.durability, queueDepthMax: settings.queueDepthMax,
            watermarks: settings.watermarks, host: settings.writerHost, turningOver: tables.rewrite)
        let cache = ShardCache(
            rank: rank, cluster: cluster, settings: settings, environment: environment, tables: tables,
            writer: writer, content: content)
        do throws(ServiceError) {
            try cache.reverifyIfSuspect(progress)
        } catch {
            // Not left to its deinit: what it has given to the writer holds it.
            cache.close()
            throw error
        }
        // Not before: a sync of the writer that fails while a suspect store is verified would be forgotten with the mark.
        cache.tidy()
        return cache
    }

    private static func check(
        _ stored: UnsafeRawBufferPointer?, wanted: Superblock, _ directory: String
    ) throws(ServiceError) {
        guard let stored else {
            throw ServiceError(
                .storeRefused,
                "\(directory) holds an LMDB file that is not the store of a rank; give this rank its own directory."
            )
        }
        guard let found = Superblock(stored) else {
            throw ServiceError(
                .storeDamaged,
                "The superblock of the store \(directory) is damaged; restore it, or move the store away and restart "
                    + "the rank, which then starts empty.")
        }
        if let refusal = found.refusal(wanted: wanted, directory: directory) {
            throw ServiceError(.storeRefused, refusal)
        }
    }
}
