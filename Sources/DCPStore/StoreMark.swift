// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// Durable marks of a store, beside its data.
///
/// Each mark is an optional empty file. They are not lines of the lock file, because that file must remain the locked
/// inode: it cannot be replaced durably, and rewriting it in place would leave it empty for a moment. A file name
/// cannot be torn, and needs no page of a full disk.
enum StoreMark: String, CaseIterable {
    /// The store has been filled for the first time: from then on an empty data file is damage.
    case created = "dcp-store.created"
    /// A sync of the store failed, and it was not verified since.
    case suspect = "dcp-store.suspect"

    func isSet(in directory: String) -> Bool { access(path(in: directory), F_OK) == 0 }

    /// Durable when it returns, with every name in the directory. Idempotent.
    func set(in directory: String) throws(StoreError) {
        let path = path(in: directory)
        let descriptor = Glibc.open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw StoreError.lmdb(errno, "make the mark \(path)") }
        let code = fsync(descriptor) == 0 ? 0 : errno
        Glibc.close(descriptor)
        guard code == 0 else { throw StoreError.lmdb(code, "sync the mark \(path)") }
        try Self.sync(directory)
    }

    /// Durable when it returns. Idempotent.
    func clear(in directory: String) throws(StoreError) {
        let path = path(in: directory)
        guard unlink(path) == 0 || errno == ENOENT else { throw StoreError.lmdb(errno, "remove the mark \(path)") }
        try Self.sync(directory)
    }

    private func path(in directory: String) -> String { directory + "/" + rawValue }

    /// Makes the names in a directory durable.
    static func sync(_ directory: String) throws(StoreError) {
        let descriptor = Glibc.open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw StoreError.lmdb(errno, "open the directory \(directory)") }
        defer { Glibc.close(descriptor) }
        guard fsync(descriptor) == 0 else { throw StoreError.lmdb(errno, "sync the directory \(directory)") }
    }
}
