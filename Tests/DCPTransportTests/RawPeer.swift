// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPTransport
import DCPWire
import NIOCore
import NIOPosix
import NIOSSL

/// A peer without our protocol's code: it writes bytes, and reads only when it is told to.
final class RawPeer: Sendable {
    private let channel: any Channel
    private let events: AsyncStream<ByteBuffer>

    private final class Handler: ChannelInboundHandler, Sendable {
        typealias InboundIn = ByteBuffer
        let continuation: AsyncStream<ByteBuffer>.Continuation

        init(_ continuation: AsyncStream<ByteBuffer>.Continuation) { self.continuation = continuation }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) { continuation.yield(unwrapInboundIn(data)) }
        func channelInactive(context: ChannelHandlerContext) { continuation.finish() }
        func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
    }

    init(_ endpoint: Endpoint, on group: any EventLoopGroup, reads: Bool = true, tls: NIOSSLContext? = nil) async throws
    {
        let (events, continuation) = AsyncStream<ByteBuffer>.makeStream()
        self.events = events
        let bootstrap = ClientBootstrap(group: group).channelOption(.autoRead, value: reads)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    if let tls {
                        let handler = try NIOSSLClientHandler(context: tls, serverHostname: nil)
                        try channel.pipeline.syncOperations.addHandler(handler)
                    }
                    try channel.pipeline.syncOperations.addHandler(Handler(continuation))
                }
            }
        switch endpoint {
        case .unix(let path): channel = try await bootstrap.connect(unixDomainSocketPath: path).get()
        case .tcp(let host, let port): channel = try await bootstrap.connect(host: host, port: port).get()
        }
    }

    func send(_ bytes: some Sequence<UInt8> & Sendable) async throws {
        try await channel.writeAndFlush(ByteBuffer(bytes: bytes)).get()
    }

    func send(_ frame: Frame) async throws { try await send(frame.encode().flatMap(\.readableBytesView)) }

    /// From now on it reads.
    func startReading() async throws { try await channel.setOption(.autoRead, value: true).get() }

    /// The next frame, out of whatever pieces it comes in; nil when the connection ends first.
    func frames(_ count: Int, limits: FrameLimits = FrameLimits()) async throws -> [Frame] {
        var decoder = FrameDecoder(limits: limits)
        var buffer = ByteBuffer()
        var frames: [Frame] = []
        for await var piece in events {
            buffer.writeBuffer(&piece)
            while let frame = try decoder.next(from: &buffer) { frames.append(frame) }
            if frames.count >= count { return frames }
        }
        return frames
    }

    /// Waits until the other side has closed.
    func closed() async throws { try await channel.closeFuture.get() }
    func close() async throws { try await channel.close().get() }

    static let hello = Frame(
        epoch: .none, tag: Tag(client: ClientID(0), number: 0), message: .hello(Station.client))
}

/// Accepts connections and says nothing.
final class SilentServer: Sendable {
    private let channel: any Channel

    init(_ path: String, on group: any EventLoopGroup) async throws {
        channel = try await ServerBootstrap(group: group).bind(unixDomainSocketPath: path).get()
    }

    func stop() async throws { try await channel.close().get() }
}
