// SPDX-License-Identifier: Apache-2.0

/// Limits for connections that are not identified yet.
public struct AdmissionLimits: Hashable, Sendable {
    /// Open connections in total, identified or not.
    public var connectionsMax: Int
    /// Connections whose hello has not been accepted yet.
    public var unauthenticatedMax: Int
    /// The same of one peer: an IP address, or a user on a Unix socket.
    public var unauthenticatedPerPeerMax: Int
    /// Bytes that a peer may send before its hello is accepted, TLS included.
    public var handshakeByteCountMax: Int

    public init(
        connectionsMax: Int = 1024, unauthenticatedMax: Int = 256, unauthenticatedPerPeerMax: Int = 64,
        handshakeByteCountMax: Int = 64 << 10
    ) {
        self.connectionsMax = connectionsMax
        self.unauthenticatedMax = unauthenticatedMax
        self.unauthenticatedPerPeerMax = unauthenticatedPerPeerMax
        self.handshakeByteCountMax = handshakeByteCountMax
    }
}
