// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import Glibc

/// A rank's data file, mapped a second time: the same pages of the page cache, for reading beside the rank's work.
///
/// @unchecked Sendable: the memory is never written here.
final class MappedFile: @unchecked Sendable {
    private let base: UnsafeMutableRawPointer
    let byteCount: Int

    /// - Throws: `.internal` when it cannot be mapped.
    init(_ path: String) throws(ServiceError) {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        defer { if descriptor >= 0 { close(descriptor) } }
        var status = stat()
        guard descriptor >= 0, fstat(descriptor, &status) == 0, status.st_size > 0,
            let base = mmap(nil, Int(status.st_size), PROT_READ, MAP_SHARED, descriptor, 0), base != MAP_FAILED
        else { throw ServiceError(.internal, "\(path) cannot be mapped: \(String(cString: strerror(errno))).") }
        self.base = base
        byteCount = Int(status.st_size)
    }

    /// The first bytes, cut into parts of one size; at most as many as the file has.
    func parts(byteCount wanted: Int, of partByteCount: Int) -> [UnsafeRawPointer] {
        stride(from: 0, through: min(wanted, byteCount) - partByteCount, by: partByteCount).map {
            UnsafeRawPointer(base) + $0
        }
    }

    deinit { munmap(base, byteCount) }
}
