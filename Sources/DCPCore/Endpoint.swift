// SPDX-License-Identifier: Apache-2.0

/// The address of a daemon: `unix:/run/dcp/rank-0.sock` or `tcp:127.0.0.1:7400`.
public enum Endpoint: Hashable, Sendable, CustomStringConvertible {
    case unix(path: String)
    case tcp(host: String, port: Int)

    /// `sun_path` holds 108 bytes with its final zero; see unix(7).
    public static let unixPathByteCountMax = 107

    /// - Throws: `.invalidConfiguration` with the text, the expected form and the limit.
    public init(_ text: String) throws(ServiceError) {
        if let path = text.removingPrefix("unix:") {
            guard !path.isEmpty, path.utf8.count <= Self.unixPathByteCountMax, !path.utf8.contains(0) else {
                throw ServiceError(
                    .invalidConfiguration,
                    "The socket path `\(path)` has \(path.utf8.count) bytes, outside 1...\(Self.unixPathByteCountMax); "
                        + "choose a shorter path or use tcp:HOST:PORT.")
            }
            self = .unix(path: path)
            return
        }
        if let address = text.removingPrefix("tcp:"), let colon = address.lastIndex(of: ":"),
            let port = Int(address[address.index(after: colon)...]), (0...65535).contains(port),
            colon > address.startIndex
        {
            var host = String(address[..<colon])
            if host.hasPrefix("["), host.hasSuffix("]") { host = String(host.dropFirst().dropLast()) }
            self = .tcp(host: host, port: port)
            return
        }
        throw ServiceError(
            .invalidConfiguration,
            "`\(text)` is not an endpoint; write unix:PATH or tcp:HOST:PORT, for example unix:/run/dcp/rank-0.sock or "
                + "tcp:127.0.0.1:7400.")
    }

    public var description: String {
        switch self {
        case .unix(let path): "unix:\(path)"
        case .tcp(let host, let port): host.contains(":") ? "tcp:[\(host)]:\(port)" : "tcp:\(host):\(port)"
        }
    }
}

extension String {
    fileprivate func removingPrefix(_ prefix: String) -> String? {
        hasPrefix(prefix) ? String(dropFirst(prefix.count)) : nil
    }
}
