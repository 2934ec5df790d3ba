// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import NIOCore

/// The rules for plain TCP.
extension Endpoint {
    var isTCP: Bool {
        if case .tcp = self { return true }
        return false
    }

    /// Whether only this machine can reach it. Host names are not resolved, because the result may change.
    private var isLoopback: Bool {
        guard case .tcp(let host, _) = self else { return true }
        switch try? SocketAddress(ipAddress: host, port: 0) {
        case .v4: return host.hasPrefix("127.")
        case .v6: return host == "::1"
        default: return false
        }
    }

    /// Refuses plain TCP except on loopback, and there unless it is explicitly allowed: nothing on a plain TCP
    /// connection identifies the peer.
    public func checkPlainAllowed(insecureLoopbackOnly: Bool) throws(ServiceError) {
        guard isLoopback else {
            throw ServiceError(
                .invalidConfiguration,
                "\(self) is not a loopback address, and plain TCP is allowed only on loopback; set tls-ca, "
                    + "tls-certificate and tls-key (dcpctl certs makes them), or use tcp:127.0.0.1:PORT or a Unix "
                    + "socket.")
        }
        guard !isTCP || insecureLoopbackOnly else {
            throw ServiceError(
                .invalidConfiguration,
                "\(self) is plain TCP, which any local user can reach; set tls-ca, tls-certificate and tls-key (dcpctl "
                    + "certs makes them), pass --insecure-loopback-only to allow it, or use a Unix socket.")
        }
    }

    /// Refuses to connect to another machine by plain TCP: anyone on the path could answer, or read along.
    public func checkPlainDialAllowed() throws(ServiceError) {
        guard isLoopback else {
            throw ServiceError(
                .invalidConfiguration,
                "\(self) is not a loopback address, and plain TCP is allowed only on loopback; give tls-ca, "
                    + "tls-certificate and tls-key (dcpctl certs makes them).")
        }
    }
}
