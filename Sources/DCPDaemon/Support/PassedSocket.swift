// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPTransport
internal import Glibc

/// The listening socket that a socket unit passes: clients and ranks may connect before the coordinator runs, and while
/// it restarts.
struct PassedSocket {
    let descriptor: CInt
    let endpoint: Endpoint

    /// - Returns: nil when none was passed.
    /// - Throws: `.invalidConfiguration` for several, or for one that is no listening stream socket of a known family.
    static func take() throws(ServiceError) -> PassedSocket? {
        let descriptors = ServiceManager.takeSockets()
        guard let descriptor = descriptors.first else { return nil }
        guard descriptors.count == 1 else {
            throw ServiceError(
                .invalidConfiguration,
                "systemd passed \(descriptors.count) sockets, but the coordinator takes one; keep one ListenStream= in "
                    + "dcp-coordinator.socket.")
        }
        var isListening: CInt = 0
        var size = socklen_t(MemoryLayout<CInt>.size)
        guard getsockopt(descriptor, SOL_SOCKET, SO_ACCEPTCONN, &isListening, &size) == 0, isListening == 1,
            let endpoint = endpoint(of: descriptor)
        else {
            throw ServiceError(
                .invalidConfiguration,
                "The socket that systemd passed is not bound to a Unix path or an IP address; see ListenStream= in "
                    + "dcp-coordinator.socket.")
        }
        return PassedSocket(descriptor: descriptor, endpoint: endpoint)
    }

    private static func text(_ buffer: [CChar]) -> String {
        String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    private static func endpoint(of descriptor: CInt) -> Endpoint? {
        var address = sockaddr_storage()
        var size = socklen_t(MemoryLayout<sockaddr_storage>.size)
        return withUnsafeMutableBytes(of: &address) { bytes in
            let pointer = bytes.baseAddress!.assumingMemoryBound(to: sockaddr.self)
            guard getsockname(descriptor, pointer, &size) == 0 else { return nil }
            guard CInt(pointer.pointee.sa_family) != AF_UNIX else {
                let offset = MemoryLayout<sockaddr_un>.offset(of: \.sun_path)!
                // A path begins with no zero; an abstract name does.
                let path = bytes[offset..<max(offset, Int(size))].prefix { $0 != 0 }
                return path.isEmpty ? nil : .unix(path: String(decoding: path, as: UTF8.self))
            }
            var host = [CChar](repeating: 0, count: Int(NI_MAXHOST))
            var port = [CChar](repeating: 0, count: Int(NI_MAXSERV))
            let flags = NI_NUMERICHOST | NI_NUMERICSERV
            guard
                getnameinfo(pointer, size, &host, socklen_t(host.count), &port, socklen_t(port.count), flags) == 0,
                let number = Int(text(port))
            else { return nil }
            return .tcp(host: text(host), port: number)
        }
    }
}
