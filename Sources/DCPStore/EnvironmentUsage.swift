// SPDX-License-Identifier: Apache-2.0

internal import CLMDB
internal import Glibc
internal import Synchronization

/// The usage of a store.
public struct StoreUsage: Sendable {
    /// Bytes of the data file up to its last used page: its size on disk.
    public var fileByteCount: Int
    /// Bytes of pages in use; the rest of the file is free for reuse.
    public var usedByteCount: Int
    /// The largest size of the file with new data.
    public var mapByteCount: Int
}

extension Environment {
    /// Any thread. Reads the free list: one record for each transaction whose freed pages are not reused yet.
    public func usage() throws(StoreError) -> StoreUsage {
        let read = try beginRead(isPrivileged: true)
        var info = MDB_envinfo()
        try StoreError.check(mdb_env_info(handle, &info), "inspect the store")
        let filePages = info.me_last_pgno + 1
        return StoreUsage(
            fileByteCount: filePages * pageByteCount,
            usedByteCount: (filePages - (try read.freePages())) * pageByteCount,
            mapByteCount: info.me_mapsize - reservedPages * pageByteCount)
    }

    var lastTransaction: UInt64 {
        var info = MDB_envinfo()
        return mdb_env_info(handle, &info) == MDB_SUCCESS ? UInt64(bitPattern: Int64(info.me_last_txnid)) : 0
    }

    /// Pages that a write transaction can use before the map is full, as of the last commit, without those that an
    /// active reader or LMDB's own rule keeps from reuse.
    func availablePages(atLeast wanted: Int) throws(StoreError) -> Int {
        let untouched = try untouchedPages()
        // The free list is read only if it can matter.
        if untouched >= wanted { return untouched }
        let read = try beginRead(isPrivileged: true)
        return untouched + (try read.freePages(before: reuseHorizon))
    }

    /// Free pages, including those kept from reuse.
    func emptyPages() throws(StoreError) -> Int { try untouchedPages() + freeListPages() }

    private func untouchedPages() throws(StoreError) -> Int {
        var info = MDB_envinfo()
        try StoreError.check(mdb_env_info(handle, &info), "inspect the store")
        return info.me_mapsize / pageByteCount - (info.me_last_pgno + 1)
    }

    /// The map for a data file of at most this size, with the reserve for deletions inside.
    public static func mapByteCountMax(fileByteCountMax: Int) -> Int {
        let pageByteCount = Int(sysconf(Int32(_SC_PAGESIZE)))
        let pages = fileByteCountMax / pageByteCount
        return max(pages - reservedPages(mapPages: pages), 0) * pageByteCount
    }

    /// Bytes that new data may take.
    var capacityByteCount: Int {
        var info = MDB_envinfo()
        guard mdb_env_info(handle, &info) == MDB_SUCCESS else { return 0 }
        return info.me_mapsize - reservedPages * pageByteCount
    }

    /// Bytes of pages in use. The free list is only read when the file has grown to `threshold`; below it the answer is
    /// the file's size, an upper bound.
    func usedByteCount(exactFrom threshold: Int) throws(StoreError) -> Int {
        var info = MDB_envinfo()
        try StoreError.check(mdb_env_info(handle, &info), "inspect the store")
        let filePages = info.me_last_pgno + 1
        guard filePages * pageByteCount >= threshold else { return filePages * pageByteCount }
        let read = try beginRead(isPrivileged: true)
        return (filePages - (try read.freePages())) * pageByteCount
    }

    /// Pages on the free list; an active reader may keep some of them from reuse.
    func freeListPages() throws(StoreError) -> Int {
        let read = try beginRead(isPrivileged: true)
        return try read.freePages()
    }

    /// Writes what the kernel holds of the data file to the disk. Writer thread, and once at creation.
    public func sync() throws(StoreError) {
        let faults = faults.withLock { $0 }
        if let code = faults?.sync(), code != 0 { throw StoreError.lmdb(code, "sync the store \(directory)") }
        try StoreError.check(mdb_env_sync(handle, 1), "sync the store \(directory)")
        faults?.synced(dataPath)
    }
}
