// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPTransport
import DCPWire
import NIOCore
import NIOPosix
import NIOSSL

/// A peer over TLS that sends what it likes and believes whoever answers.
enum TLSStranger {
    private final class Handler: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        private let done: EventLoopPromise<[Frame]>
        private let sent: ByteBuffer
        private var received = ByteBuffer()
        private var decoder = FrameDecoder(limits: FrameLimits())
        private var frames: [Frame] = []

        init(sent: ByteBuffer, done: EventLoopPromise<[Frame]>) {
            self.sent = sent
            self.done = done
        }

        func channelActive(context: ChannelHandlerContext) {
            context.writeAndFlush(NIOAny(sent), promise: nil)
        }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            var bytes = unwrapInboundIn(data)
            received.writeBuffer(&bytes)
            while let frame = try? decoder.next(from: &received) { frames.append(frame) }
        }

        func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
        func channelInactive(context: ChannelHandlerContext) { done.succeed(frames) }
    }

    /// Connects, sends, and reads until the other side has closed.
    /// - Parameter files: what it shows; nothing when nil.
    static func send(_ bytes: [UInt8], to endpoint: String, showing files: TLSFiles?) async throws -> [Frame] {
        guard case .tcp(let host, let port) = try Endpoint(endpoint) else { return [] }
        var configuration = TLSConfiguration.makeClientConfiguration()
        configuration.certificateVerification = .none
        if let files {
            configuration.certificateChain = try NIOSSLCertificate.fromPEMFile(files.certificate).map {
                .certificate($0)
            }
            configuration.privateKey = .privateKey(try NIOSSLPrivateKey(file: files.key, format: .pem))
        }
        let context = try NIOSSLContext(configuration: configuration)
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let done = loop.makePromise(of: [Frame].self)
        ClientBootstrap(group: loop)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let handlers = channel.pipeline.syncOperations
                    try handlers.addHandler(try NIOSSLClientHandler(context: context, serverHostname: nil))
                    try handlers.addHandler(Handler(sent: ByteBuffer(bytes: bytes), done: done))
                }
            }.connect(host: host, port: port).whenFailure { done.fail($0) }
        return try await done.futureResult.get()
    }
}
