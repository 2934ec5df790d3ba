public import DCPCore
internal import NIOCore

/// Where plain TCP may be used.
extension Endpoint {
    var isTCP: Bool {
        if case .tcp = self { return true }
        return false
    }

    /// Whether only this machine reaches it. A name is not asked for: what it resolves to may change.
    private var isLoopback: Bool {
        guard case .tcp(let host, _) = self else { return true }
        switch try? SocketAddress(ipAddress: host, port: 0) {
        case .v4: return host.hasPrefix("127.")
        case .v6: return host == "::1"
        default: return false
        }
    }

    /// Refuses to listen with plain TCP beyond this machine, and within it unless that was asked for by name: nothing on
    /// a plain TCP connection says who the peer is.
    public func checkPlainAllowed(insecureLoopbackOnly: Bool) throws(ServiceError) {
        guard isLoopback else {
            throw ServiceError(
                .invalidConfiguration,
                "\(self) is not a loopback address, and plain TCP is allowed only on loopback; set tls-ca, "
                    + "tls-certificate and "
                    + "tls-key (dcpctl certs makes them), or use tcp:127.0.0.1:PORT or a Unix socket.")
        }
        guard !isTCP || insecureLoopbackOnly else {
            throw ServiceError(
                .invalidConfiguration,
                "\(self) is plain TCP, which any local user can reach; set tls-ca, tls-certificate and tls-key (dcpctl "
                    + "certs makes them), pass --insecure-loopback-only to allow it, or use a Unix socket.")
        }
    }

    /// Refuses to dial plain TCP beyond this machine: anybody on the way could answer, and read along.
    public func checkPlainDialAllowed() throws(ServiceError) {
        guard isLoopback else {
            throw ServiceError(
                .invalidConfiguration,
                "\(self) is not a loopback address, and plain TCP is allowed only on loopback; give tls-ca, "
                    + "tls-certificate and "
                    + "tls-key (dcpctl certs makes them).")
        }
    }
}
