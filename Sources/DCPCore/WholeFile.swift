// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// A file that is read entirely, such as a configuration or a certificate.
///
/// Its path may name anything: opening a pipe waits for its writer, and a device may never end. Therefore only regular
/// files are read, and only up to a limit.
package struct WholeFile {
    package let bytes: [UInt8]
    /// Permissions.
    package let mode: UInt32

    /// Why a file is not read.
    package struct Refusal: Error {
        /// It names the file and the problem; the caller adds the remedy.
        package let message: String

        package func error(_ code: ServiceError.Code, _ remedy: String) -> ServiceError {
            ServiceError(code, "\(message); \(remedy).")
        }
    }

    package init(_ path: String, byteCountMax: Int) throws(Refusal) {
        guard !path.utf8.contains(0) else {
            throw Refusal(message: "The path \(path.debugDescription) holds a NUL byte")
        }
        // O_NONBLOCK has no effect on a regular file.
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)
        guard descriptor >= 0 else { throw Self.unreadable(path) }
        defer { close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw Self.unreadable(path) }
        if let kind = Self.otherKind(mode: status.st_mode) { throw Refusal(message: "\(path) is \(kind)") }
        // One byte more than its size or the limit: files in /proc have no size, and others may grow meanwhile.
        var bytes = [UInt8](repeating: 0, count: min(max(Int(status.st_size), 4095), byteCountMax) + 1)
        var count = 0
        while true {
            let result = bytes.withUnsafeMutableBytes {
                read(descriptor, $0.baseAddress! + count, $0.count - count)
            }
            if result < 0, errno == EINTR { continue }
            guard result >= 0 else { throw Self.unreadable(path) }
            if result == 0 { break }
            count += result
            guard count <= byteCountMax else { throw Refusal(message: "\(path) has more than \(byteCountMax) bytes") }
            if count == bytes.count { bytes += [UInt8](repeating: 0, count: min(count, byteCountMax + 1 - count)) }
        }
        bytes.removeLast(bytes.count - count)
        self.bytes = bytes
        mode = status.st_mode & 0o7777
    }

    /// The kind of a file that is not regular, as part of a sentence; nil for a regular file.
    /// - Parameter mode: as in `stat`.
    package static func otherKind(mode: UInt32) -> String? {
        let kind =
            switch mode & S_IFMT {
            case S_IFREG: nil as String?
            case S_IFDIR: "a directory"
            case S_IFIFO: "a pipe"
            case S_IFCHR, S_IFBLK: "a device"
            case S_IFSOCK: "a socket"
            default: "something else"
            }
        return kind.map { "\($0), not a regular file" }
    }

    private static func unreadable(_ path: String) -> Refusal {
        Refusal(message: "\(path) cannot be read (\(String(cString: strerror(errno))))")
    }
}
