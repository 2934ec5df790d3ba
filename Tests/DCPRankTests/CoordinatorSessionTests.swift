import DCPCache
import DCPCore
import DCPRank
import DCPTestKit
import DCPTransport
import DCPWire
import NIOCore
import NIOPosix
import Testing

/// What a rank makes of a coordinator whose bytes are damaged on the way. The simulator's track record, 1 and 8.
@Suite("session with a coordinator", .timeLimit(.minutes(2)))
struct CoordinatorSessionTests {
    private enum Event: Sendable {
        case connected
        case fatal(ServiceError)
    }

    /// Answers the first bytes of each connection, its hello, with the next of some replies; later connections with nothing.
    private final class Answering: ChannelInboundHandler, Sendable {
        typealias InboundIn = ByteBuffer
        let reply: [UInt8]

        init(_ reply: [UInt8]) { self.reply = reply }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            guard !reply.isEmpty else { return }
            context.channel.writeAndFlush(ByteBuffer(bytes: reply), promise: nil)
        }

        func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
    }

    private static func bytes(_ message: Message, flipped bit: Int? = nil) -> [UInt8] {
        let frame = Frame(epoch: .none, tag: Tag(client: ClientID(0), number: 0), message: message)
        var bytes = Array(frame.encode().head.readableBytesView)
        if let bit { bytes[bit / 8] ^= 1 << UInt8(bit % 8) }
        return bytes
    }

    @Test("a damaged frame ends the connection and not the rank, which dials again")
    func damaged() async throws {
        let cluster = try ClusterShape(
            ranks: 1, headGroups: 1, interleave: 1, blockTokens: 16, exchange: .allToAll)
        let welcome = Message.welcome(Hello(role: .coordinator, fingerprint: LayoutFingerprint(cluster)))
        // The version, the epoch and the last byte; of the welcome, and of a frame behind it.
        var replies: [[UInt8]] = []
        for bit in [32, 70, Self.bytes(welcome).count * 8 - 1] { replies.append(Self.bytes(welcome, flipped: bit)) }
        for bit in [32, 70, 511] {
            replies.append(Self.bytes(welcome) + Self.bytes(.leaseRenewed, flipped: bit))
        }
        let (events, continuation) = AsyncStream<Event>.makeStream()
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let loop = group.next()
        let directory = TemporaryDirectory(in: "/tmp")
        // Used on the one loop only.
        let connections = NIOLoopBoundBox.makeBoxSendingValue(0, eventLoop: loop)
        let coordinator = try await ServerBootstrap(group: group).childChannelInitializer { [replies] channel in
            channel.eventLoop.makeCompletedFuture {
                let number = connections.value
                connections.value += 1
                continuation.yield(.connected)
                try channel.pipeline.syncOperations.addHandler(
                    Answering(number < replies.count ? replies[number] : []))
            }
        }.bind(unixDomainSocketPath: directory.path("coordinator")).get()
        let cache = try ShardCache.open(directory: directory.path("store"), rank: RankIndex(0), cluster: cluster)
        var configuration = RankConfiguration(
            rank: RankIndex(0), listen: .unix(path: directory.path("rank")),
            coordinator: .unix(path: directory.path("coordinator")), threads: 1)
        configuration.redialDelay = .milliseconds(1)
        let pool = ComputePool(threads: 1)
        let server = try await loop.submit { [configuration] in
            NIOLoopBound(
                RankServer(configuration, cluster: cluster, cache: cache, pool: pool, eventLoop: loop) { event in
                    if case .fatal(let error) = event { continuation.yield(.fatal(error)) }
                }, eventLoop: loop)
        }.get()
        try await loop.flatSubmit { server.value.start() }.get()
        var count = 0
        for await event in events {
            if case .fatal(let error) = event {
                Issue.record("the rank ended after \(count) connections: \(error)")
                break
            }
            count += 1
            if count > replies.count { break }
        }
        #expect(count == replies.count + 1)
        try await loop.flatSubmit { server.value.stop() }.get()
        try await coordinator.close()
        try await pool.shutDown()
        cache.close()
        try await group.shutdownGracefully()
    }
}
