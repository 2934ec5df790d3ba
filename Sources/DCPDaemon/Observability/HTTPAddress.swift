// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPTransport
internal import NIOCore

/// Where a daemon's HTTP endpoint listens: `127.0.0.1:9470`, `[::1]:9470` or `unix:/run/dcp/rank-0.http`.
package enum HTTPAddress: Hashable, Sendable, CustomStringConvertible {
    case unix(path: String)
    case tcp(address: String, port: Int)

    /// - Returns: nil for what is none; `refusal` says what would be right.
    package init?(_ text: String) {
        if text.hasPrefix("unix:") {
            let path = String(text.dropFirst("unix:".count))
            guard (1...Endpoint.unixPathByteCountMax).contains(path.utf8.count), !path.utf8.contains(0) else {
                return nil
            }
            self = .unix(path: path)
            return
        }
        guard let colon = text.lastIndex(of: ":"), let port = Int(text[text.index(after: colon)...]),
            (0...65535).contains(port)
        else { return nil }
        var host = String(text[..<colon])
        if host.hasPrefix("["), host.hasSuffix("]") { host = String(host.dropFirst().dropLast()) }
        // An address and no name: what a name resolves to may change, and with it who can reach the endpoint.
        guard (try? SocketAddress(ipAddress: host, port: port)) != nil else { return nil }
        self = .tcp(address: host, port: port)
    }

    package static func refusal(_ text: String) -> String? {
        guard text != "off", HTTPAddress(text) == nil else { return nil }
        return "`\(text)` is not an address for the HTTP endpoint; write IP:PORT, unix:PATH (at most "
            + "\(Endpoint.unixPathByteCountMax) bytes) or off, for example 127.0.0.1:9470 or unix:/run/dcp/rank-0.http."
    }

    /// Whether only this machine can reach it.
    package var isLocal: Bool {
        switch self {
        case .unix: true
        case .tcp(let address, _): address == "::1" || address.hasPrefix("127.")
        }
    }

    package var description: String {
        switch self {
        case .unix(let path): "unix:\(path)"
        case .tcp(let address, let port): address.contains(":") ? "[\(address)]:\(port)" : "\(address):\(port)"
        }
    }
}
