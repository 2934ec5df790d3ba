internal import DCPCore
internal import Glibc

/// Where a certificate, its key and the authorities that are believed are. PEM.
public struct TLSFiles: Hashable, Sendable {
    public var authority: String
    public var certificate: String
    public var key: String

    public init(authority: String, certificate: String, key: String) {
        self.authority = authority
        self.certificate = certificate
        self.key = key
    }

    /// More than any chain takes.
    static let byteCountMax = 1 << 20

    /// A file's bytes.
    /// - Parameter isSecret: refuses a file that everybody may read.
    static func read(_ path: String, isSecret: Bool = false) throws(ServiceError) -> [UInt8] {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw unreadable(path, errno) }
        defer { close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw unreadable(path, errno) }
        guard status.st_mode & S_IFMT == S_IFREG, (0...byteCountMax).contains(Int(status.st_size)) else {
            throw ServiceError(
                .invalidConfiguration, "\(path) is no file of at most \(byteCountMax) bytes; name a PEM file.")
        }
        guard !isSecret || status.st_mode & 0o007 == 0 else {
            throw ServiceError(
                .invalidConfiguration,
                "Everybody may use the key \(path); chmod 600 it, and replace it if others could.")
        }
        // One byte more than it had: a file that grows meanwhile is not read whole, and refused as PEM.
        var bytes = [UInt8](repeating: 0, count: Int(status.st_size) + 1)
        var count = 0
        while count < bytes.count {
            let result = bytes.withUnsafeMutableBytes {
                pread(descriptor, $0.baseAddress! + count, $0.count - count, off_t(count))
            }
            if result < 0, errno == EINTR { continue }
            guard result >= 0 else { throw unreadable(path, errno) }
            if result == 0 { break }
            count += result
        }
        return Array(bytes.prefix(count))
    }

    private static func unreadable(_ path: String, _ number: CInt) -> ServiceError {
        ServiceError(
            .invalidConfiguration,
            "\(path) cannot be read (\(String(cString: strerror(number)))); correct the path, or let uid \(geteuid()) read it."
        )
    }
}
