public import DCPWire
public import NIOCore

/// The bounds of one connection.
public struct LinkSettings: Sendable {
    /// What a peer that has said hello may send in one frame.
    public var frameLimits: FrameLimits
    /// Bytes that may wait to be written to one peer. One more frame is refused, and its sender answers with a
    /// retryable error.
    public var outboundByteCountMax: Int
    /// From the connection to the peer's hello or welcome.
    public var handshakeTimeout: TimeAmount
    /// How long written bytes may stay unread by the peer before the link is closed.
    public var stallTimeout: TimeAmount
    /// Connections a listener serves at once; one more is closed at once.
    public var connectionsMax: Int
    /// What carries it.
    public var network: any Network

    public init(
        frameLimits: FrameLimits = FrameLimits(), outboundByteCountMax: Int = 512 << 20,
        handshakeTimeout: TimeAmount = .seconds(5), stallTimeout: TimeAmount = .seconds(30), connectionsMax: Int = 1024,
        network: any Network = SocketNetwork()
    ) {
        self.frameLimits = frameLimits
        self.outboundByteCountMax = outboundByteCountMax
        self.handshakeTimeout = handshakeTimeout
        self.stallTimeout = stallTimeout
        self.connectionsMax = connectionsMax
        self.network = network
    }
}
