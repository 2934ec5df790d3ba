// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// The lock file that keeps a store in one process, and open once in it.
///
/// LMDB does not refuse a second opener, and two in one process break its own locks: lmdb.h, "Do not have open an LMDB
/// database twice in the same process at the same time". An `flock` belongs to the open file description, so it
/// excludes both, and the kernel releases it when the process dies.
///
/// The file has the text `pid <holder>` for the error that a second opener gets. Durable marks are in separate files:
/// see `StoreMark`.
struct StoreLock: ~Copyable {
    static let fileName = "dcp-store.lock"

    private let descriptor: Int32

    init(directory: String) throws(StoreError) {
        let path = directory + "/" + Self.fileName
        let descriptor = Glibc.open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw StoreError.lmdb(errno, "open the lock file \(path)") }
        let locked = flock(descriptor, LOCK_EX | LOCK_NB)
        let cause = errno
        guard locked == 0 else {
            let content = Self.read(descriptor)
            Glibc.close(descriptor)
            guard cause == EWOULDBLOCK else { throw StoreError.lmdb(cause, "lock \(path)") }
            let holder = content.split(separator: "\n").first { $0.hasPrefix("pid ") }.map {
                "process \($0.dropFirst(4))"
            }
            throw StoreError(
                .inUse,
                "The store \(directory) is in use by \(holder ?? "another process"); stop it, or use another directory."
            )
        }
        self.descriptor = descriptor
        writeHolder()
    }

    private func writeHolder() {
        let text = "pid \(getpid())\n"
        // It only serves messages, so a failed write is not an error of the store.
        _ = ftruncate(descriptor, 0)
        _ = text.withCString { pwrite(descriptor, $0, text.utf8.count, 0) }
    }

    private static func read(_ descriptor: Int32) -> String {
        var bytes = [UInt8](repeating: 0, count: 128)
        let count = pread(descriptor, &bytes, bytes.count, 0)
        return String(decoding: bytes.prefix(max(count, 0)), as: UTF8.self)
    }

    deinit {
        // Closing the descriptor is not enough: a child that another thread is just starting has a copy, and would keep
        // the store locked until its exec.
        flock(descriptor, LOCK_UN)
        Glibc.close(descriptor)
    }
}
