internal import Glibc

/// Whether a disk that refused a write takes one now: by writing, since quotas, reservations and errors of the device show
/// in nothing else.
enum RoomProbe {
    /// A probe allocates what the refused transaction needed, within these.
    static let byteCountRange = 256 << 10...64 << 20

    /// Allocates in a file beside the data file, syncs it and removes it again. Blocks on the disk.
    /// - Returns: 0, or the `errno` of what was refused.
    static func run(directory: String, byteCount: Int) -> Int32 {
        let path = directory + "/dcp-probe"
        let descriptor = Glibc.open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { return errno }
        unlink(path)
        defer { Glibc.close(descriptor) }
        let size = min(max(byteCount, byteCountRange.lowerBound), byteCountRange.upperBound)
        let code = posix_fallocate(descriptor, 0, off_t(size))
        guard code == 0 else { return code }
        // An allocation is a promise of the file system; one page proves that the device still takes data.
        let page = [UInt8](repeating: 0xDC, count: 4096)
        guard pwrite(descriptor, page, page.count, 0) == page.count else { return errno == 0 ? ENOSPC : errno }
        return fdatasync(descriptor) == 0 ? 0 : errno
    }
}
