internal import DCPCore
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
    /// From a frame's first byte to its last.
    public var frameTimeout: TimeAmount
    /// What the links of these settings may hold of frames that have not ended; copies of the settings share it.
    public var unfinishedFrames: UnfinishedFrames
    /// What a listener grants to whom it does not know yet.
    public var admission: AdmissionLimits
    /// Who may connect to a Unix socket; nil asks nobody who they are, which is for tests.
    public var unixAccess: UnixAccess?
    /// All TCP is TLS with these, both ways; nil makes all TCP plain, which `SocketNetwork` dials on loopback only.
    public var tls: TLSCredentials?
    /// Memory for payloads that both ends have, between ranks, where the network can pass it and the peer has said that it would;
    /// nil has payloads go with their frames.
    public var memory: MemorySettings?
    /// What carries it.
    public var network: any Network

    public init(
        frameLimits: FrameLimits = FrameLimits(), outboundByteCountMax: Int = 512 << 20,
        handshakeTimeout: TimeAmount = .seconds(5), stallTimeout: TimeAmount = .seconds(30),
        frameTimeout: TimeAmount = .seconds(60), unfinishedFrames: UnfinishedFrames = UnfinishedFrames(),
        admission: AdmissionLimits = AdmissionLimits(), unixAccess: UnixAccess? = nil, tls: TLSCredentials? = nil,
        network: any Network = SocketNetwork()
    ) {
        self.frameLimits = frameLimits
        self.outboundByteCountMax = outboundByteCountMax
        self.handshakeTimeout = handshakeTimeout
        self.stallTimeout = stallTimeout
        self.frameTimeout = frameTimeout
        self.unfinishedFrames = unfinishedFrames
        self.admission = admission
        self.unixAccess = unixAccess
        self.tls = tls
        self.network = network
    }

    /// What hellos of these settings say.
    package var features: Hello.Features { memory == nil ? [] : [.sharedMemory] }

    func passage(at endpoint: Endpoint) -> (any MemoryPassage)? {
        memory == nil ? nil : network.passage(at: endpoint, isOpen: unixAccess?.namesOthers == true)
    }
}
