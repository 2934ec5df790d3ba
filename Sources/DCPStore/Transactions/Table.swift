// SPDX-License-Identifier: Apache-2.0

internal import CLMDB

/// One named table (LMDB: database) of an environment, a map from byte strings to byte strings in key order.
public struct Table: Sendable {
    public let name: String
    let identifier: UInt32
}

extension WriteTransaction {
    /// Opens a table, and creates it if it is missing.
    ///
    /// It can be used in all transactions after this one has committed. To be called before the writer starts, by one
    /// thread: lmdb.h, "This function must not be called from multiple concurrent transactions in the same process".
    public mutating func openTable(_ name: String) throws(StoreError) -> Table {
        var identifier: UInt32 = 0
        try StoreError.check(
            mdb_dbi_open(try live(), name, UInt32(MDB_CREATE), &identifier), "open the table \(name)")
        return Table(name: name, identifier: identifier)
    }

    /// The number of named tables and other entries in the environment's root; 0 in a new store.
    public mutating func rootEntries() throws(StoreError) -> Int {
        var identifier: UInt32 = 0
        var stat = MDB_stat()
        try StoreError.check(mdb_dbi_open(try live(), nil, 0, &identifier), "open the root table")
        try StoreError.check(mdb_stat(try live(), identifier, &stat), "inspect the root table")
        return stat.ms_entries
    }
}
