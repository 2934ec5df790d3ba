// SPDX-License-Identifier: Apache-2.0

internal import CLMDB
internal import CLinux
internal import Glibc
internal import Synchronization

/// One LMDB environment: a directory with `data.mdb`, `lock.mdb` and our lock file, open once on the whole machine.
///
/// Flags, and why:
/// - `MDB_NOTLS`: read transactions belong to objects, not threads.
/// - `MDB_NORDAHEAD` is left out. A block is one run of 64 KiB or more, and read-ahead brings it in with 190 us where
///   faults without it take 790. The reader also asks for exactly a block's pages before its first touch, so the only
///   reads that rely on read-ahead are those of pages that were evicted later.
/// - never `MDB_WRITEMAP` (a full disk would be SIGBUS, a stray store would reach the file), `MDB_DUPSORT` or nested
///   writers (fixes after 0.9.24 touch them).
///
/// Thread rules: any thread may begin reads; the one thread that owns the `Writer` begins writes.
///
/// @unchecked Sendable: `handle` is an LMDB environment, which any thread may use; it is closed exactly once, when
/// `lifetime`, under its mutex, says that it is closing and that no transaction lives.
public final class Environment: @unchecked Sendable {
    public static let readersMax = 1024
    /// Reader slots reserved for the writer thread and for statistics, so that many readers cannot prevent a commit.
    static let readersReserved = 16
    /// Pages above the configured size that only freeing jobs may use: a delete copies pages before it frees any, and a
    /// truncation writes the rows of the block it cuts. 1 to 16 MiB, a 64th of the map; with those of the file's pages
    /// that are beyond the configured size, because it was larger when they were written.
    let reservedPages: Int
    /// How much larger than configured the map had to be, so that deletions have pages.
    public let excessByteCount: Int

    let handle: OpaquePointer
    public let directory: String
    /// Bytes in a page of the data file.
    public let pageByteCount: Int
    /// Whether the store had been marked as created in an earlier run.
    public let wasCreated: Bool
    private let lifetime: Mutex<Lifetime>
    /// nil if /proc is not available: then there is no advice to the kernel and no report of faults.
    let map: EnvironmentMap?
    private let watchedMap: Int32
    /// For tests; set before the writer starts.
    let faults = Mutex<StoreFaults?>(nil)

    private struct Lifetime: ~Copyable {
        var transactions = 0
        /// For each active reader a transaction that is not after its own, with the number of readers that share it.
        var horizons: [UInt64: Int] = [:]
        var isClosing = false
        var isSuspect: Bool
        var lock: StoreLock?
    }

    /// - Parameters:
    ///   - directory: created with mode 0700 when it is missing.
    ///   - mapByteCountMax: the largest size of the data file. It only reserves address space; the file grows as it is
    ///     filled.
    ///   - tablesMax: the largest number of tables.
    ///   - checkedPage: called for each page that is checked before the store is opened, which takes long on a slow
    ///     disk.
    /// - Throws: `.inUse`, `.refused`, `.damaged`.
    public convenience init(
        directory: String, mapByteCountMax: Int, tablesMax: Int, durability: Durability,
        checkedPage: @escaping () -> Void = {}
    ) throws(StoreError) {
        try Self.makeDirectory(directory)
        let mapPages = mapByteCountMax / Int(sysconf(Int32(_SC_PAGESIZE)))
        var flags = UInt32(MDB_NOTLS)
        if durability != .always { flags |= UInt32(MDB_NOSYNC) }
        try self.init(
            directory: directory, mapPages: mapPages, reservedPages: Self.reservedPages(mapPages: mapPages),
            tablesMax: tablesMax, flags: flags, checkedPage: checkedPage)
    }

    /// Opens an existing store for reading. It creates and changes only the lock file. It reads a page of each value,
    /// as a verification requires.
    /// - Throws: `.refused` if there is no store, `.inUse`, `.damaged`.
    public convenience init(readingDirectory directory: String, tablesMax: Int) throws(StoreError) {
        try Self.checkHoldsStore(directory)
        try self.init(
            directory: directory, mapPages: 0, reservedPages: 0, tablesMax: tablesMax, flags: Self.readingFlags,
            checkedPage: {})
    }

    private init(
        directory: String, mapPages: Int, reservedPages: Int, tablesMax: Int, flags: UInt32,
        checkedPage: @escaping () -> Void
    ) throws(StoreError) {
        let lock = try StoreLock(directory: directory)
        let wasCreated = StoreMark.created.isSet(in: directory)
        let isSuspect = StoreMark.suspect.isSet(in: directory)
        let dataPath = directory + "/data.mdb"
        var status = stat()
        let exists = stat(dataPath, &status) == 0
        // Opening a pipe would wait for its writer.
        guard !exists || status.st_mode & S_IFMT == S_IFREG else {
            throw StoreError(
                .refused, "The data file \(dataPath) is not a regular file; give the directory of a store.")
        }
        let fileByteCount = exists ? Int(status.st_size) : 0
        if isSuspect { SyncWitness.dropCache(dataPath) }
        guard fileByteCount > 0 || !wasCreated else {
            throw StoreError(
                .damaged,
                "The data file \(dataPath) is missing or empty, but this store has been written before; restore it, "
                    + "or move \(directory) away and restart the rank, which then starts empty.")
        }
        let isReading = flags & UInt32(MDB_RDONLY) != 0
        // This also prevents SIGBUS: everything read through the map is in the file.
        if fileByteCount > 0 { try PageCheck.run(dataPath, isReading ? .values : .trees, checkedPage) }
        var created: OpaquePointer?
        try StoreError.check(mdb_env_create(&created), "create an environment")
        guard let handle = created else { throw StoreError(.unexpected, "mdb_env_create gave no environment.") }
        // Not the map size stated in the file, which was not checked.
        let mapByteCount = isReading ? fileByteCount : (mapPages + reservedPages) * Int(sysconf(Int32(_SC_PAGESIZE)))
        var excessPages = 0
        do throws(StoreError) {
            try StoreError.check(mdb_env_set_mapsize(handle, mapByteCount), "set the map size")
            try StoreError.check(mdb_env_set_maxreaders(handle, UInt32(Self.readersMax)), "set the reader limit")
            try StoreError.check(mdb_env_set_maxdbs(handle, UInt32(tablesMax)), "set the table limit")
            let opened = mdb_env_open(handle, directory, flags, 0o600)
            try Self.checkMapped(opened, directory, mapByteCount)
            // A killed process leaves its reader slots, which would keep pages from being reused.
            var dead: Int32 = 0
            if !isReading {
                try StoreError.check(mdb_reader_check(handle, &dead), "check for stale readers of \(directory)")
                excessPages = try Self.extend(handle, directory, mapByteCount, reservedPages: reservedPages)
            }
        } catch {
            mdb_env_close(handle)
            throw error
        }
        var pages = MDB_stat()
        mdb_env_stat(handle, &pages)
        self.handle = handle
        self.reservedPages = reservedPages + excessPages
        self.directory = directory
        self.pageByteCount = Int(pages.ms_psize)
        excessByteCount = excessPages * pageByteCount
        self.wasCreated = wasCreated
        map = EnvironmentMap(of: dataPath)
        watchedMap = map.map { dcp_map_watch($0.address, $0.byteCount, dataPath) } ?? -1
        self.lifetime = Mutex(Lifetime(isSuspect: isSuspect, lock: lock))
    }

    private static func checkMapped(_ code: Int32, _ directory: String, _ byteCount: Int) throws(StoreError) {
        guard code != ENOMEM else {
            throw StoreError(
                .refused,
                "The store \(directory) cannot be mapped: \(byteCount) bytes of address space are not available. "
                    + "Lower a rank's map-size or disk-limit, or raise the process's limit (ulimit -v).")
        }
        try StoreError.check(code, "open the store \(directory)")
    }

    static func reservedPages(mapPages: Int) -> Int { min(max(mapPages / 64, 256), 4096) }

    /// Gives a file that is larger than its limit the reserve for deletions, as far as it has too few free pages: the
    /// limit was lowered, or the file is a copy of a larger store. LMDB maps such a file up to its last page; then
    /// nothing could be deleted from it, nor an epoch recorded. To be called before any transaction.
    /// - Parameter mapByteCount: of the map that the limit allows, with the reserve.
    /// - Returns: the pages that the map has beyond these.
    private static func extend(
        _ handle: OpaquePointer, _ directory: String, _ mapByteCount: Int, reservedPages: Int
    ) throws(StoreError) -> Int {
        var pages = MDB_stat()
        var info = MDB_envinfo()
        try StoreError.check(mdb_env_stat(handle, &pages), "inspect the store \(directory)")
        try StoreError.check(mdb_env_info(handle, &info), "inspect the store \(directory)")
        let pageByteCount = Int(pages.ms_psize)
        let mapPages = mapByteCount / pageByteCount
        let filePages = info.me_last_pgno + 1
        guard filePages + reservedPages > mapPages else { return 0 }
        // As many as the next transaction may use.
        let free = try freePages(in: handle, before: UInt64(info.me_last_txnid))
        let wanted = max(filePages + max(reservedPages - free, 0), mapPages)
        if wanted * pageByteCount > info.me_mapsize {
            try checkMapped(mdb_env_set_mapsize(handle, wanted * pageByteCount), directory, wanted * pageByteCount)
        }
        return wanted - mapPages
    }

    private static func freePages(in handle: OpaquePointer, before horizon: UInt64) throws(StoreError) -> Int {
        var begun: OpaquePointer?
        try StoreError.check(mdb_txn_begin(handle, nil, UInt32(MDB_RDONLY), &begun), "begin a read transaction")
        guard let transaction = begun else { throw StoreError(.unexpected, "mdb_txn_begin gave no transaction.") }
        defer { mdb_txn_abort(transaction) }
        return try Access.freePages(transaction, before: horizon)
    }

    private static func makeDirectory(_ directory: String) throws(StoreError) {
        if mkdir(directory, 0o700) == 0 {
            // Durable contents are lost if the directory's own name is.
            try StoreMark.sync(directory + "/..")
        } else if errno != EEXIST {
            throw StoreError.lmdb(errno, "create the store's directory \(directory)")
        }
        var status = stat()
        guard stat(directory, &status) == 0, status.st_mode & S_IFMT == S_IFDIR else {
            throw StoreError(.refused, "\(directory) is not a directory; give the store its own directory.")
        }
    }

    /// Records durably that the store has been filled: from now on an empty data file counts as damage.
    public func markCreated() throws(StoreError) { try Self.markCreated(in: directory) }

    /// It also works for a store that is not open, such as a restored copy.
    public static func markCreated(in directory: String) throws(StoreError) { try StoreMark.created.set(in: directory) }

    public static let createdMarkName = StoreMark.created.rawValue

    var dataPath: String { directory + "/data.mdb" }

    /// Whether a sync of the store failed and it was not verified since.
    public var isSuspect: Bool { lifetime.withLock { $0.isSuspect } }

    /// Records durably that the store must be verified before it is trusted again, or that it was. Called by the
    /// writer's thread, or before there is one, so the store is locked.
    public func mark(suspect: Bool) throws(StoreError) {
        lifetime.withLock { $0.isSuspect = suspect }
        try suspect ? StoreMark.suspect.set(in: directory) : StoreMark.suspect.clear(in: directory)
    }

    package func inject(_ faults: StoreFaults) { self.faults.withLock { $0 = faults } }

    // MARK: Lifetime

    /// Closes the environment and releases its lock, immediately or when the last transaction ends. Idempotent.
    public func close() {
        lifetime.withLock { lifetime in
            guard !lifetime.isClosing else { return }
            lifetime.isClosing = true
            if lifetime.transactions == 0 { release(&lifetime) }
        }
    }

    private func release(_ lifetime: inout Lifetime) {
        dcp_map_forget(watchedMap)
        mdb_env_close(handle)
        lifetime.lock = nil
    }

    func transactionBegins(isPrivileged: Bool) throws(StoreError) {
        try lifetime.withLock { lifetime throws(StoreError) in
            guard !lifetime.isClosing else { throw StoreError(.closed, "The store \(directory) has been closed.") }
            guard isPrivileged || lifetime.transactions < Self.readersMax - Self.readersReserved else {
                throw StoreError(
                    .overloaded,
                    "\(lifetime.transactions) readers are using the store \(directory), which is the limit; retry.")
            }
            lifetime.transactions += 1
        }
    }

    func transactionEnded() {
        lifetime.withLock { lifetime in
            lifetime.transactions -= 1
            if lifetime.isClosing, lifetime.transactions == 0 { release(&lifetime) }
        }
    }

    /// Before a read transaction begins.
    /// - Returns: its horizon: the last transaction committed by now, which is its own or the one before. Pages that
    ///   this and later transactions free are not reused while it is active.
    func readBegins(isPrivileged: Bool) throws(StoreError) -> UInt64 {
        try transactionBegins(isPrivileged: isPrivileged)
        return lifetime.withLock { lifetime in
            let last = lastTransaction
            lifetime.horizons[last, default: 0] += 1
            return last
        }
    }

    func readEnded(_ horizon: UInt64) {
        lifetime.withLock { lifetime in
            let others = (lifetime.horizons[horizon] ?? 1) - 1
            lifetime.horizons[horizon] = others > 0 ? others : nil
        }
        transactionEnded()
    }

    /// Pages freed by transactions before this one can be reused, by LMDB's rule for its last transaction and every
    /// reader.
    var reuseHorizon: UInt64 { lifetime.withLock { min($0.horizons.keys.min() ?? .max, lastTransaction) } }

    /// Differs when a reader has ended that kept pages from being reused.
    public var oldestRead: UInt64? { lifetime.withLock { $0.horizons.keys.min() } }

    /// Active transactions, reads and writes.
    public var transactionCount: Int { lifetime.withLock { $0.transactions } }

    deinit { close() }
}
