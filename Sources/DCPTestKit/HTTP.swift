// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// Requests over a Unix socket, byte by byte as they are given. One connection a request; blocking.
public enum HTTP {
    public struct Answer: Sendable {
        public let status: Int
        /// In small letters.
        public let headers: String
        public let body: String

        /// The value of a sample, by its line up to the space.
        public func sample(_ name: String) -> Double? {
            body.split(separator: "\n").first { $0.hasPrefix(name + " ") }.flatMap {
                Double($0.dropFirst(name.count + 1))
            }
        }
    }

    public enum Failure: Error {
        /// By `errno`.
        case unreachable(String, Int32)
        case notHTTP(String)
    }

    public static func get(_ path: String, at socket: String, method: String = "GET") throws -> Answer {
        try send("\(method) \(path) HTTP/1.1\r\nHost: dcp\r\nConnection: close\r\n\r\n", to: socket)
    }

    /// Sends bytes and reads until the other side closes.
    public static func send(_ request: String, to path: String) throws -> Answer {
        let descriptor = try connected(to: path)
        defer { close(descriptor) }
        let bytes = Array(request.utf8)
        guard Glibc.send(descriptor, bytes, bytes.count, CInt(MSG_NOSIGNAL)) == bytes.count else {
            throw Failure.unreachable(path, errno)
        }
        var received: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65536)
        while true {
            let count = read(descriptor, &buffer, buffer.count)
            guard count > 0 else { break }
            received += buffer[..<count]
        }
        let text = String(decoding: received, as: UTF8.self)
        let lines = text.split(separator: "\r\n", omittingEmptySubsequences: false)
        guard let status = lines[0].split(separator: " ").dropFirst().first.flatMap({ Int($0) }) else {
            throw Failure.notHTTP(String(text.prefix(100)))
        }
        let end = lines.firstIndex(of: "") ?? lines.endIndex
        return Answer(
            status: status, headers: lines[..<end].joined(separator: "\r\n").lowercased(),
            body: lines[end...].dropFirst().joined(separator: "\r\n"))
    }

    /// A connection with a deadline on every read.
    public static func connected(to path: String) throws -> CInt {
        let descriptor = socket(AF_UNIX, CInt(SOCK_STREAM.rawValue), 0)
        var timeout = timeval(tv_sec: 60, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8.prefix($0.count - 1)) }
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard result == 0 else {
            let cause = errno
            close(descriptor)
            throw Failure.unreachable(path, cause)
        }
        return descriptor
    }
}
