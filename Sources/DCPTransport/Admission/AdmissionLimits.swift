/// What those may take who have not said who they are.
public struct AdmissionLimits: Hashable, Sendable {
    /// Connections that are open at once, known peers and others.
    public var connectionsMax: Int
    /// Connections of which no hello has been accepted yet.
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
