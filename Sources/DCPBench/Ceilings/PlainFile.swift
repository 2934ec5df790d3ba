// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import Glibc

/// Overwriting bytes of a plain file, with or without waiting for the disk: the minimum cost of a commit of them. The
/// file already has its size and its place on the disk, so that it does not grow.
final class PlainFile {
    private let descriptor: Int32
    private let path: String
    private let bytes: [UInt8]
    private let places: Int
    private var run = 0

    /// - Parameter byteCount: what is written at a time.
    init(_ path: String, byteCount: Int) throws(ServiceError) {
        self.path = path
        bytes = [UInt8](repeating: 1, count: byteCount)
        descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        places = max(2, (64 << 20) / max(byteCount, 1))
        guard descriptor >= 0 else { throw Self.failure(path) }
        for _ in 0..<places { try write(isSynced: false) }
        guard fsync(descriptor) == 0 else { throw Self.failure(path) }
    }

    /// - Parameter isSynced: whether to return only when the bytes are on the disk.
    func write(isSynced: Bool) throws(ServiceError) {
        let offset = off_t(run % places * bytes.count)
        run += 1
        var done = 0
        while done < bytes.count {
            let count = bytes.withUnsafeBytes {
                pwrite(descriptor, $0.baseAddress.map { $0 + done }, bytes.count - done, offset + off_t(done))
            }
            guard count > 0 else { throw Self.failure(path) }
            done += count
        }
        if isSynced, fdatasync(descriptor) != 0 { throw Self.failure(path) }
    }

    private static func failure(_ path: String) -> ServiceError {
        ServiceError(
            .storeFull, "\(path) cannot be written: \(String(cString: strerror(errno))). Choose another --dir.")
    }

    deinit { close(descriptor) }
}
