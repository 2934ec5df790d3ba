// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// A descriptor of the data file through which nothing is written. It distinguishes a failed sync from a refused write,
/// which LMDB's commit reports in the same way.
///
/// Linux remembers for each open file whether an error of writing back has been reported through it (`errseq_t`, since
/// 4.13). The error was reported through LMDB's descriptor but not through this one, so its next sync also fails,
/// although the kernel has marked the lost pages as clean. fsync(2): "This will cause a subsequent fsync() to return
/// EIO" on the other descriptors.
struct SyncWitness: ~Copyable {
    private let descriptor: Int32

    init(_ path: String) throws(StoreError) {
        descriptor = Glibc.open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw StoreError.lmdb(errno, "open the data file \(path)") }
    }

    /// Whether something written since the last call may not have reached the disk: an `errno`, or 0.
    borrowing func check() -> Int32 { fdatasync(descriptor) == 0 ? 0 : errno }

    deinit { Glibc.close(descriptor) }

    /// Makes the next reader of a file read from the disk. After a failed sync the page cache still has the lost data,
    /// marked as clean: a checksum would be compared with memory.
    static func dropCache(_ path: String) {
        let descriptor = Glibc.open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return }
        // Dirty pages are not dropped. The next sync finds those that still cannot be written.
        _ = fdatasync(descriptor)
        _ = posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED)
        Glibc.close(descriptor)
    }
}
