// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// Checks whether a disk that refused a write accepts one now. It writes, because only a write reveals quotas,
/// reservations and device errors.
enum RoomProbe {
    /// A probe allocates the size that the refused transaction needed, within these limits.
    static let byteCountRange = 256 << 10...64 << 20

    /// Allocates in a file beside the data file, syncs it and removes it again. Blocks on the disk.
    /// - Returns: 0, or the `errno` of the refused call.
    static func run(directory: String, byteCount: Int) -> Int32 {
        let path = directory + "/dcp-probe"
        let descriptor = Glibc.open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { return errno }
        unlink(path)
        defer { Glibc.close(descriptor) }
        let size = min(max(byteCount, byteCountRange.lowerBound), byteCountRange.upperBound)
        let code = posix_fallocate(descriptor, 0, off_t(size))
        guard code == 0 else { return code }
        // An allocation only reserves space; writing one page proves that the device still accepts data.
        let page = [UInt8](repeating: 0xDC, count: 4096)
        guard pwrite(descriptor, page, page.count, 0) == page.count else { return errno == 0 ? ENOSPC : errno }
        return fdatasync(descriptor) == 0 ? 0 : errno
    }
}
