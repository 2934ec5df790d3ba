// SPDX-License-Identifier: Apache-2.0

internal import CLMDB
internal import Glibc

/// Opens a store for reading while no rank serves it.
extension Environment {
    /// Options for a read-only opening, which touches only the lock file.
    ///
    /// `MDB_NOLOCK`: lmdb.h, "the caller must manage all concurrency itself". The store's own lock, which is held, does
    /// this: no other process has the file open. `lock.mdb`, which only a writer needs, is therefore neither created
    /// nor changed.
    static let readingFlags = UInt32(MDB_NOTLS | MDB_RDONLY | MDB_NOLOCK)

    /// - Throws: `.refused` if the directory holds no store.
    static func checkHoldsStore(_ directory: String) throws(StoreError) {
        var status = stat()
        guard stat(directory + "/data.mdb", &status) == 0 else {
            throw StoreError(
                .refused,
                "\(directory) holds no store: \(String(cString: strerror(errno))); give the directory that a rank was "
                    + "started with as --store.")
        }
    }

    /// Opens existing tables, in the order of `names`, without a write transaction.
    ///
    /// To be called before any other transaction, by one thread.
    /// - Throws: `.refused` if a table is missing.
    public func openTables(reading names: [String]) throws(StoreError) -> [Table] {
        var begun: OpaquePointer?
        try StoreError.check(
            mdb_txn_begin(handle, nil, UInt32(MDB_RDONLY), &begun), "begin a read transaction")
        guard let transaction = begun else { throw StoreError(.unexpected, "mdb_txn_begin gave no transaction.") }
        var tables: [Table] = []
        for name in names {
            var identifier: UInt32 = 0
            let code = mdb_dbi_open(transaction, name, 0, &identifier)
            guard code == MDB_SUCCESS else {
                mdb_txn_abort(transaction)
                guard code == MDB_NOTFOUND else { throw StoreError.lmdb(code, "open the table \(name)") }
                throw StoreError(
                    .refused,
                    "\(directory) holds an LMDB file without the table `\(name)`: it is not the store of a rank.")
            }
            tables.append(Table(name: name, identifier: identifier))
        }
        // Committed, not aborted: lmdb.h, "If the transaction is aborted the handle will be closed automatically".
        try StoreError.check(mdb_txn_commit(transaction), "open the tables of \(directory)")
        return tables
    }
}
