internal import Glibc

/// A descriptor of the data file that nothing is written through. It tells a sync that failed from a write that was
/// refused, which LMDB's commit reports alike.
///
/// Linux remembers for each open file whether an error of writing back has been reported through it (`errseq_t`, since
/// 4.13). LMDB's descriptor has heard of the error; this one has not, so its next sync fails as well, although the
/// kernel calls the lost pages clean. fsync(2): "This will cause a subsequent fsync() to return EIO" on the other
/// descriptors.
struct SyncWitness: ~Copyable {
    private let descriptor: Int32

    init(_ path: String) throws(StoreError) {
        descriptor = Glibc.open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw StoreError.lmdb(errno, "open the data file \(path)") }
    }

    /// Whether something written since the last call may not have reached the disk: an `errno`, or 0.
    borrowing func check() -> Int32 { fdatasync(descriptor) == 0 ? 0 : errno }

    deinit { Glibc.close(descriptor) }

    /// Makes the next reader of a file see what the disk holds. After a sync that failed the page cache still has what
    /// was lost, and calls it clean: a checksum would be compared with memory.
    static func dropCache(_ path: String) {
        let descriptor = Glibc.open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return }
        // Dirty pages are not dropped. One that still cannot be written is found by the next sync.
        _ = fdatasync(descriptor)
        _ = posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED)
        Glibc.close(descriptor)
    }
}
