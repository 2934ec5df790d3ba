import DCPClient
import DCPCore
import Foundation
import Glibc
import Testing

/// Requests over a Unix socket, byte by byte as they are given. One connection a request.
enum HTTP {
    struct Answer: Sendable {
        var status: Int
        var headers: String
        var body: String

        func json() throws -> [String: Any] {
            try #require(try JSONSerialization.jsonObject(with: Data(body.utf8)) as? [String: Any])
        }

        /// The value of a sample, by its line up to the space.
        func sample(_ name: String) -> Double? {
            body.split(separator: "\n").first { $0.hasPrefix(name + " ") }.flatMap {
                Double($0.dropFirst(name.count + 1))
            }
        }
    }

    static func get(_ path: String, at socket: String, method: String = "GET") async throws -> Answer {
        let request = "\(method) \(path) HTTP/1.1\r\nHost: dcp\r\nConnection: close\r\n\r\n"
        return try await onOwnThread { try send(request, to: socket) }
    }

    /// Sends bytes and reads until the other side closes.
    static func send(_ request: String, to path: String) throws -> Answer {
        let descriptor = try connected(to: path)
        defer { close(descriptor) }
        let bytes = Array(request.utf8)
        try #require(write(descriptor, bytes, bytes.count) == bytes.count)
        var received: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65536)
        while true {
            let count = read(descriptor, &buffer, buffer.count)
            guard count > 0 else { break }
            received += buffer[..<count]
        }
        let text = String(decoding: received, as: UTF8.self)
        let parts = text.split(separator: "\r\n\r\n", maxSplits: 1, omittingEmptySubsequences: false)
        let status = text.split(separator: " ").dropFirst().first.flatMap { Int($0) }
        return Answer(
            status: try #require(status, "\(text.prefix(100))"), headers: String(parts[0]).lowercased(),
            body: parts.count > 1 ? String(parts[1]) : "")
    }

    /// A connection with a deadline on every read.
    static func connected(to path: String) throws -> CInt {
        let descriptor = socket(AF_UNIX, CInt(SOCK_STREAM.rawValue), 0)
        var timeout = timeval(tv_sec: 60, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        try #require(result == 0, "\(path): \(String(cString: strerror(errno)))")
        return descriptor
    }
}

extension TestCluster {
    func get(_ path: String, of role: DaemonRole, method: String = "GET") async throws -> HTTP.Answer {
        try await HTTP.get(path, at: String(local.directory.http(of: role).dropFirst("unix:".count)), method: method)
    }

    /// Asks until an answer is as wanted, which some event brings about; each answer is a question to a live daemon.
    func get(
        _ path: String, of role: DaemonRole, until isWanted: (HTTP.Answer) -> Bool
    ) async throws -> HTTP.Answer {
        let deadline = ContinuousClock.now + .seconds(120)
        while true {
            let answer = try await get(path, of: role)
            if isWanted(answer) { return answer }
            try #require(ContinuousClock.now < deadline, "\(path) of \(role): \(answer.status) \(answer.body)")
            try await Task.sleep(for: .milliseconds(50))
        }
    }
}
