// SPDX-License-Identifier: Apache-2.0

internal import CLMDB

/// A consistent view of the store, which ends when it goes out of scope.
///
/// Pages freed by later transactions are not reused while it is active, so keep it short: a reader that is active for
/// hours makes the file grow by everything written meanwhile. It may move between threads (`MDB_NOTLS`), but only one
/// may use it at a time.
public struct ReadTransaction: ~Copyable {
    let handle: OpaquePointer
    private let environment: Environment
    private let horizon: UInt64

    init(_ environment: Environment, isPrivileged: Bool) throws(StoreError) {
        let horizon = try environment.readBegins(isPrivileged: isPrivileged)
        var begun: OpaquePointer?
        let code = mdb_txn_begin(environment.handle, nil, UInt32(MDB_RDONLY), &begun)
        guard code == MDB_SUCCESS, let handle = begun else {
            environment.readEnded(horizon)
            throw StoreError.lmdb(code, "begin a read transaction")
        }
        self.handle = handle
        self.environment = environment
        self.horizon = horizon
    }

    /// The value of a key, or nil. Valid until the transaction ends.
    public borrowing func get(_ table: Table, _ key: [UInt8]) throws(StoreError) -> UnsafeRawBufferPointer? {
        try Access.get(handle, table, key)
    }

    public borrowing func count(_ table: Table) throws(StoreError) -> Int { try Access.count(handle, table) }

    /// Calls `body` with each entry from the first key at or after `start`, in key order, until it returns false. The
    /// value's address comes from its leaf page; the pages of a large value are not touched.
    public borrowing func scan(
        _ table: Table, from start: [UInt8] = [],
        _ body: (_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) -> Bool
    ) throws(StoreError) { try Access.scan(handle, table, from: start, body) }

    /// Pages on the free list. Each record of LMDB's table 0 is under the number of the transaction that freed its pages, a
    /// count and then that many page numbers.
    /// - Parameter horizon: only those that were freed by transactions before this one.
    borrowing func freePages(before horizon: UInt64 = .max) throws(StoreError) -> Int {
        try Access.freePages(handle, before: horizon)
    }

    /// Calls `body` with each page on the free list.
    borrowing func scanFreePages(_ body: (Int) -> Void) throws(StoreError) {
        try scan(Table(name: "free list", identifier: 0)) { _, value in
            for index in 0..<value.loadUnaligned(as: Int.self) {
                body(value.loadUnaligned(fromByteOffset: 8 * (index + 1), as: Int.self))
            }
            return true
        }
    }

    /// The number of the state; it rises with each commit.
    package var number: UInt64 { UInt64(bitPattern: Int64(mdb_txn_id(handle))) }

    deinit {
        mdb_txn_abort(handle)
        environment.readEnded(horizon)
    }
}

extension Environment {
    /// Any thread.
    /// - Throws: `.overloaded` with too many readers, `.closed`.
    public func beginRead() throws(StoreError) -> ReadTransaction {
        try ReadTransaction(self, isPrivileged: false)
    }

    /// A read transaction that uses a reserved slot: for the writer thread and for statistics.
    public func beginRead(isPrivileged: Bool) throws(StoreError) -> ReadTransaction {
        try ReadTransaction(self, isPrivileged: isPrivileged)
    }
}
