// SPDX-License-Identifier: Apache-2.0

internal import CLMDB
internal import Glibc

/// A failure of the store: what happened, to which file or value, and what to do.
public struct StoreError: Error, Sendable, CustomStringConvertible {
    public var code: Code
    public var message: String
    /// The `errno` or LMDB return code behind it, when there is one.
    public var cause: Int32?

    public init(_ code: Code, _ message: String, cause: Int32? = nil) {
        self.code = code
        self.message = message
        self.cause = cause
    }

    public enum Code: String, Sendable {
        /// No page is left in the map or on the disk. Reads continue; writes succeed again after a deletion.
        case full
        /// Another process, or this one, has the store open.
        case inUse
        /// The path is not a directory, is not accessible, or holds a foreign file.
        case refused
        /// The file is shorter than its last page, a page is inconsistent, or a sync failed.
        case damaged
        /// The queue of the writer, or the table of readers, is full. Retry.
        case overloaded
        /// The environment or the writer has been closed.
        case closed
        /// LMDB returned a code that a correct program does not cause.
        case unexpected
    }

    /// The map has no page left for a transaction, or no run of pages; the disk may have.
    var isOutOfPages: Bool { code == .full && (cause == nil || cause == MDB_MAP_FULL) }

    /// The disk has no block for a page, or does not write it.
    var isRefusedByDisk: Bool { code == .full && !isOutOfPages }

    public var description: String {
        guard let cause else { return message }
        return "\(message) [\(Self.text(cause))]"
    }

    static func text(_ code: Int32) -> String { String(cString: mdb_strerror(code)) + ", \(code)" }

    /// Maps a return code. `action` completes "could not ...".
    ///
    /// EIO counts as full: on a full disk a `pwrite` of pages may fail with either. After both a delete commits with
    /// pages that are free inside the file: see `WriterCore.attempt`.
    static func lmdb(_ code: Int32, _ action: @autoclosure () -> String) -> StoreError {
        let what = action()
        switch code {
        case MDB_MAP_FULL:
            return StoreError(
                .full,
                "Could not \(what): the store has reached its largest size; close or truncate sequences, or raise a "
                    + "rank's --disk-limit or --map-size and restart it.", cause: code)
        case ENOSPC, EIO, EDQUOT:
            return StoreError(
                .full,
                "Could not \(what): the disk is full or refuses writes; free space on it, or close sequences.",
                cause: code)
        case MDB_READERS_FULL:
            return StoreError(
                .overloaded, "Could not \(what): too many concurrent readers; retry.", cause: code)
        case MDB_CORRUPTED, MDB_PAGE_NOTFOUND, MDB_INVALID, MDB_PANIC, MDB_VERSION_MISMATCH:
            return StoreError(
                .damaged,
                "Could not \(what): the data file is damaged or is not an LMDB file; move the store's directory away "
                    + "and restart the rank, which then starts empty.", cause: code)
        case EACCES, EPERM, ENOENT, ENOTDIR, EROFS:
            return StoreError(.refused, "Could not \(what); check the path and its permissions.", cause: code)
        default:
            return StoreError(.unexpected, "Could not \(what).", cause: code)
        }
    }

    /// Throws unless the code is `MDB_SUCCESS`.
    static func check(_ code: Int32, _ action: @autoclosure () -> String) throws(StoreError) {
        guard code == MDB_SUCCESS else { throw lmdb(code, action()) }
    }
}
