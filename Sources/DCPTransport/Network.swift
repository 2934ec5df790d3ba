// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import Glibc
public import NIOCore
internal import NIOPosix

/// Creates connections: sockets in the daemons, or a simulated network in which a seed decides what arrives and when.
///
/// Called on `eventLoop`, which every channel it makes belongs to.
public protocol Network: AnyObject, Sendable {
    /// Whether it is private: plain TCP may then connect to any address.
    var isPrivate: Bool { get }

    /// Accepts connections at an endpoint until the channel is closed.
    /// - Parameter initialize: sets up each channel before its first byte; a failure closes it.
    func listen(
        at endpoint: Endpoint, on eventLoop: any EventLoop,
        initialize: @escaping @Sendable (any Channel) -> EventLoopFuture<Void>
    ) -> EventLoopFuture<any Channel>

    /// - Parameter initialize: sets the channel up before it becomes active.
    func connect(
        to endpoint: Endpoint, on eventLoop: any EventLoop, timeout: TimeAmount,
        initialize: @escaping @Sendable (any Channel) -> EventLoopFuture<Void>
    ) -> EventLoopFuture<any Channel>

    /// The way to pass memory between the ends of a connection at an endpoint; nil if it is not possible.
    /// - Parameter isOpen: whether other users than this process's may be at the other end.
    func passage(at endpoint: Endpoint, isOpen: Bool) -> (any MemoryPassage)?
}

/// Unix and TCP sockets.
public final class SocketNetwork: Network {
    private let inheritedSocket: CInt?

    public var isPrivate: Bool { false }

    /// - Parameter inheritedSocket: an already listening socket, which `listen` uses instead of creating one.
    public init(inheritedSocket: CInt? = nil) { self.inheritedSocket = inheritedSocket }

    public func listen(
        at endpoint: Endpoint, on eventLoop: any EventLoop,
        initialize: @escaping @Sendable (any Channel) -> EventLoopFuture<Void>
    ) -> EventLoopFuture<any Channel> {
        let bootstrap = ServerBootstrap(group: eventLoop)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .serverChannelOption(.backlog, value: 256)
            .serverChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(AcceptPause())
                }
            }
            .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
            .childChannelOption(.maxMessagesPerRead, value: Self.readsPerTurn)
            .childChannelOption(.recvAllocator, value: Self.receiveAllocator)
            .childChannelInitializer(initialize)
        if let inheritedSocket { return bootstrap.withBoundSocket(inheritedSocket) }
        switch endpoint {
        case .unix(let path):
            guard !SocketFile.isInUse(at: path) else {
                return eventLoop.makeFailedFuture(IOError(errnoCode: EADDRINUSE, reason: "listen"))
            }
            return bootstrap.bind(unixDomainSocketPath: path, cleanupExistingSocketFile: true)
        case .tcp(let host, let port): return bootstrap.bind(host: host, port: port)
        }
    }

    public func connect(
        to endpoint: Endpoint, on eventLoop: any EventLoop, timeout: TimeAmount,
        initialize: @escaping @Sendable (any Channel) -> EventLoopFuture<Void>
    ) -> EventLoopFuture<any Channel> {
        let bootstrap = ClientBootstrap(group: eventLoop)
            .connectTimeout(timeout)
            .channelOption(.socketOption(.so_keepalive), value: 1)
            .channelOption(.tcpOption(.tcp_nodelay), value: 1)
            .channelOption(.maxMessagesPerRead, value: Self.readsPerTurn)
            .channelOption(.recvAllocator, value: Self.receiveAllocator)
            .channelInitializer(initialize)
        switch endpoint {
        case .unix(let path): return bootstrap.connect(unixDomainSocketPath: path)
        case .tcp(let host, let port):
            // Avoids the resolver's thread for addresses that need no look-up.
            if let address = try? SocketAddress(ipAddress: host, port: port) { return bootstrap.connect(to: address) }
            return bootstrap.connect(host: host, port: port)
        }
    }

    /// Both ends of a Unix socket are on one kernel, whatever their namespaces, and the kernel identifies the peer.
    /// Over TCP neither is certain.
    public func passage(at endpoint: Endpoint, isOpen: Bool) -> (any MemoryPassage)? {
        guard case .unix(let path) = endpoint else { return nil }
        return SocketPassage(beside: path, mode: isOpen ? 0o666 : 0o600)
    }

    /// Of one connection, so that a frame of megabytes does not keep the others of the loop waiting.
    private static let readsPerTurn: UInt = 1

    /// Larger reads for large frames: a chunk of prefill is megabytes. Without TLS a link installs its own.
    private static var receiveAllocator: any RecvByteBufferAllocator {
        AdaptiveRecvByteBufferAllocator(minimum: 1 << 10, initial: 8 << 10, maximum: 1 << 20)
    }
}
