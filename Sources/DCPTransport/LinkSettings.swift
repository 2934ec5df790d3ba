// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
public import DCPWire
public import NIOCore

/// The bounds of one connection.
public struct LinkSettings: Sendable {
    /// Limits of a frame from a peer after its hello.
    public var frameLimits: FrameLimits
    /// Bytes that may be queued for one peer. Further frames are refused, and their sender answers with a retryable
    /// error.
    public var outboundByteCountMax: Int
    /// From the connection to the peer's hello or welcome.
    public var handshakeTimeout: TimeAmount
    /// How long written bytes may stay unread by the peer before the link is closed.
    public var stallTimeout: TimeAmount
    /// From a frame's first byte to its last.
    public var frameTimeout: TimeAmount
    /// The limit of unfinished frames over all links with these settings; copies of the settings share it.
    public var unfinishedFrames: UnfinishedFrames
    /// A listener's limits for unidentified peers.
    public var admission: AdmissionLimits
    /// Who may connect to a Unix socket; nil admits everyone, for tests.
    public var unixAccess: UnixAccess?
    /// Credentials for TLS on all TCP connections, in both directions; nil makes all TCP plain, which `SocketNetwork`
    /// allows only on loopback.
    public var tls: TLSCredentials?
    /// Shared memory for payloads between ranks, used if the network can pass it and the peer supports it; nil sends
    /// payloads with their frames.
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

    /// The features in hellos with these settings.
    package var features: Hello.Features { memory == nil ? [] : [.sharedMemory] }

    func passage(at endpoint: Endpoint) -> (any MemoryPassage)? {
        memory == nil ? nil : network.passage(at: endpoint, isOpen: unixAccess?.namesOthers == true)
    }
}
