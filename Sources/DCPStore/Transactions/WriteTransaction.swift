// SPDX-License-Identifier: Apache-2.0

internal import CLMDB
internal import Synchronization

/// The one transaction that may change the store. Aborts when it goes out of scope without `commit()`.
///
/// Only on the writer's thread (LMDB's writer mutex belongs to the thread that took it), or before the writer starts.
public struct WriteTransaction: ~Copyable {
    private var handle: OpaquePointer?
    let environment: Environment
    /// Values of at least this many pages are written in pieces, because no run is known to be long enough. At least 2,
    /// because a single page needs no run.
    let runPagesMissing: Int
    /// Few pages are there for the copies that deletions make: only what is essential is deleted, or one value.
    private let isScarce: Bool
    /// For tests: longer runs are treated as unavailable.
    let runPagesMax: Int
    /// Puts and deletes so far; 0 means there is nothing to commit and nothing to undo.
    public private(set) var changes = 0
    /// The space for the puts so far: runs of pages for large values, and bytes in leaves.
    private var largePages = 0
    private var leafBytes = 0
    /// An upper estimate of both in pages, without the few that every commit copies: leaves are at least half full.
    var pages: Int { largePages + 2 * leafBytes / environment.pageByteCount + 1 }
    /// The pages freed by the deletes so far, according to the callers.
    public private(set) var pagesFreed = 0
    /// The minimum run for LMDB's list of them, a value with 8 bytes per page.
    var freedListPages: Int { environment.runPages(valueByteCount: 8 * (pagesFreed + 1)) }
    /// The maximum for which there is a run for the list. 128 of its entries are for pages of the trees: one leaf for
    /// each layer of a block.
    private var pagesFreedMax: Int {
        let listed = (min(runPagesMissing, 18) - 1) * environment.pageByteCount / 8 - 3
        return min(listed - 128, 8192)
    }
    /// After an error in a put or a delete LMDB marks the transaction as failed; it can then only be aborted.
    private(set) var isFailed = false
    /// The pages of the value of the failed put; 0 for another failed change.
    private(set) var runPagesFailed = 0

    init(
        _ environment: Environment, runPagesMissing: Int = .max, isScarce: Bool = false
    ) throws(StoreError) {
        precondition(runPagesMissing >= 2, "a single page needs no run")
        self.runPagesMissing = runPagesMissing
        self.isScarce = isScarce
        runPagesMax = environment.faults.withLock { $0?.runPagesMax() } ?? .max
        try environment.transactionBegins(isPrivileged: true)
        var begun: OpaquePointer?
        let code = mdb_txn_begin(environment.handle, nil, 0, &begun)
        guard code == MDB_SUCCESS, let handle = begun else {
            environment.transactionEnded()
            throw StoreError.lmdb(code, "begin a write transaction")
        }
        self.handle = handle
        self.environment = environment
    }

    borrowing func live() throws(StoreError) -> OpaquePointer {
        guard let handle else { throw StoreError(.unexpected, "The write transaction has ended.") }
        return handle
    }

    /// The value of a key, or nil. Valid until the next change.
    public borrowing func get(_ table: Table, _ key: [UInt8]) throws(StoreError) -> UnsafeRawBufferPointer? {
        try Access.get(try live(), table, key)
    }

    public borrowing func count(_ table: Table) throws(StoreError) -> Int { try Access.count(try live(), table) }

    /// As `ReadTransaction.scan`. The body must not change the store.
    public borrowing func scan(
        _ table: Table, from start: [UInt8] = [],
        _ body: (_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) -> Bool
    ) throws(StoreError) { try Access.scan(try live(), table, from: start, body) }

    public mutating func put(_ table: Table, _ key: [UInt8], _ value: [UInt8]) throws(StoreError) {
        try reserve(table, key, byteCount: value.count) { place in
            value.withUnsafeBytes { place.copyMemory(from: $0) }
        }
    }

    /// Puts a value whose bytes are written in place: one copy fewer than `put`. `fill` must write all of them; it gets
    /// memory of the transaction, not zeroed.
    public mutating func reserve(
        _ table: Table, _ key: [UInt8], byteCount: Int, fill: (UnsafeMutableRawBufferPointer) -> Void
    ) throws(StoreError) {
        let transaction = try live()
        changes += 1
        let runPages = environment.runPages(valueByteCount: byteCount)
        largePages += runPages
        // A node of a leaf: 8 bytes of header, 2 of its offset, the key, and the value or the number of its first page.
        leafBytes += key.count + 10 + (runPages > 0 ? 8 : byteCount)
        var value = MDB_val(mv_size: byteCount, mv_data: nil)
        let code =
            runPages > runPagesMax
            ? MDB_MAP_FULL
            : Access.withValue(key) {
                mdb_put(transaction, table.identifier, &$0, &value, UInt32(MDB_RESERVE))
            }
        if code != MDB_SUCCESS { (isFailed, runPagesFailed) = (true, runPages) }
        try StoreError.check(code, "write \(byteCount) bytes to the table \(table.name)")
        fill(UnsafeMutableRawBufferPointer(start: value.mv_data, count: byteCount))
    }

    /// - Parameter pages: the number of the value's pages.
    /// - Returns: false if there was no such key.
    @discardableResult
    public mutating func delete(_ table: Table, _ key: [UInt8], pages: Int = 0) throws(StoreError) -> Bool {
        let transaction = try live()
        let code = Access.withValue(key) { mdb_del(transaction, table.identifier, &$0, nil) }
        if code == MDB_NOTFOUND { return false }
        changes += 1
        if code != MDB_SUCCESS { isFailed = true }
        try StoreError.check(code, "delete from the table \(table.name)")
        pagesFreed += pages
        return true
    }

    /// Whether a delete that can also happen in a later transaction may free this many more pages. The first of a
    /// transaction always may; of a scarce one, if nothing was changed before.
    public func canFree(_ pages: Int) -> Bool {
        if isScarce { return changes == 0 }
        return pagesFreed == 0 || pagesFreed + pages <= pagesFreedMax
    }

    public consuming func commit() throws(StoreError) {
        let transaction = try live()
        // LMDB frees the handle whether the commit succeeds or not.
        handle = nil
        let code = mdb_txn_commit(transaction)
        environment.transactionEnded()
        try StoreError.check(code, "commit to the store \(environment.directory)")
    }

    deinit {
        guard let handle else { return }
        mdb_txn_abort(handle)
        environment.transactionEnded()
    }
}

extension Environment {
    /// For the setup of a store, before its writer starts; blocks while another write transaction lives.
    public func beginSetup() throws(StoreError) -> WriteTransaction { try WriteTransaction(self) }

    /// Pages of the run that a large value takes, with its header of 16 bytes; 0 for one that fits a leaf.
    public func runPages(valueByteCount: Int) -> Int {
        valueByteCount > pageByteCount / 2 ? (15 + valueByteCount) / pageByteCount + 1 : 0
    }
}
