// SPDX-License-Identifier: Apache-2.0

internal import CLMDB

/// Reading in both kinds of transactions. Pointers point into the map, or into a dirty page of a write transaction.
enum Access {
    static func get(_ transaction: OpaquePointer, _ table: Table, _ key: [UInt8])
        throws(StoreError) -> UnsafeRawBufferPointer?
    {
        var found = MDB_val()
        let code = withValue(key) { mdb_get(transaction, table.identifier, &$0, &found) }
        if code == MDB_NOTFOUND { return nil }
        try StoreError.check(code, "read from the table \(table.name)")
        return UnsafeRawBufferPointer(start: found.mv_data, count: found.mv_size)
    }

    static func count(_ transaction: OpaquePointer, _ table: Table) throws(StoreError) -> Int {
        var stat = MDB_stat()
        try StoreError.check(mdb_stat(transaction, table.identifier, &stat), "inspect the table \(table.name)")
        return stat.ms_entries
    }

    /// As `ReadTransaction.freePages`.
    static func freePages(_ transaction: OpaquePointer, before horizon: UInt64) throws(StoreError) -> Int {
        var pages = 0
        try scan(transaction, Table(name: "free list", identifier: 0), from: []) { key, value in
            guard key.loadUnaligned(as: UInt64.self) < horizon else { return false }
            pages += value.loadUnaligned(as: Int.self)
            return true
        }
        return pages
    }

    static func scan(
        _ transaction: OpaquePointer, _ table: Table, from start: [UInt8],
        _ body: (_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) -> Bool
    ) throws(StoreError) {
        var opened: OpaquePointer?
        try StoreError.check(
            mdb_cursor_open(transaction, table.identifier, &opened), "open a cursor on the table \(table.name)")
        guard let cursor = opened else { throw StoreError(.unexpected, "mdb_cursor_open gave no cursor.") }
        defer { mdb_cursor_close(cursor) }
        var key = MDB_val()
        var value = MDB_val()
        var code = start.isEmpty ? mdb_cursor_get(cursor, &key, &value, MDB_FIRST) : 0
        if !start.isEmpty {
            var found = MDB_val()
            code = withValue(start) { wanted in
                let code = mdb_cursor_get(cursor, &wanted, &value, MDB_SET_RANGE)
                found = wanted
                return code
            }
            key = found
        }
        while code == MDB_SUCCESS {
            let goOn = body(
                UnsafeRawBufferPointer(start: key.mv_data, count: key.mv_size),
                UnsafeRawBufferPointer(start: value.mv_data, count: value.mv_size))
            guard goOn else { return }
            code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)
        }
        guard code == MDB_NOTFOUND else { throw StoreError.lmdb(code, "scan the table \(table.name)") }
    }

    /// LMDB takes keys by mutable pointer and does not write through it.
    static func withValue<Result>(_ bytes: [UInt8], _ body: (inout MDB_val) -> Result) -> Result {
        bytes.withUnsafeBytes { buffer in
            var value = MDB_val(
                mv_size: buffer.count, mv_data: UnsafeMutableRawPointer(mutating: buffer.baseAddress))
            return body(&value)
        }
    }
}
