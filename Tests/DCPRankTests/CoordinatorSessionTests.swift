// SPDX-License-Identifier: Apache-2.0

import DCPCache
import DCPCore
import DCPRank
import DCPTestKit
import DCPTransport
import DCPWire
import NIOCore
import NIOPosix
import Testing

/// A rank whose coordinator does not do what it should. The simulator's track record, 1 and 12.
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
        var bytes = Array(frame.encode()[0].readableBytesView)
        if let bit { bytes[bit / 8] ^= 1 << UInt8(bit % 8) }
        return bytes
    }

    /// A single rank with its store. Stopped when the body returns.
    private func withRank(
        _ cluster: ClusterShape, in directory: TemporaryDirectory, on group: MultiThreadedEventLoopGroup,
        observe: @escaping @Sendable (RankEvent) -> Void = { _ in }, _ body: () async throws -> Void
    ) async throws {
        let loop = group.next()
        let cache = try ShardCache.open(directory: directory.path("store"), rank: RankIndex(0), cluster: cluster)
        var configuration = RankConfiguration(
            rank: RankIndex(0), listen: .unix(path: directory.path("rank")),
            coordinator: .unix(path: directory.path("coordinator")), threads: 1)
        configuration.redialDelay = .milliseconds(1)
        let pool = ComputePool(threads: 1)
        let server = try await loop.submit { [configuration] in
            NIOLoopBound(
                RankServer(
                    configuration, cluster: cluster, cache: cache, pool: pool, eventLoop: loop, observe: observe),
                eventLoop: loop)
        }.get()
        try await loop.flatSubmit { server.value.start() }.get()
        try await body()
        try await loop.flatSubmit { server.value.stop() }.get()
        try await pool.shutDown()
        cache.close()
    }

    private static func cluster() throws -> ClusterShape {
        try ClusterShape(ranks: 1, headGroups: 1, interleave: 1, blockTokens: 16, exchange: .allToAll)
    }

    @Test("a damaged frame ends the connection and not the rank, which dials again")
    func damaged() async throws {
        let cluster = try Self.cluster()
        let welcome = Message.welcome(Hello(role: .coordinator, fingerprint: LayoutFingerprint(cluster)))
        // The version, the epoch and the last byte; of the welcome, and of a frame behind it.
        var replies: [[UInt8]] = []
        for bit in [32, 70, Self.bytes(welcome).count * 8 - 1] { replies.append(Self.bytes(welcome, flipped: bit)) }
        for bit in [32, 70, 511] {
            replies.append(Self.bytes(welcome) + Self.bytes(.leaseRenewed, flipped: bit))
        }
        let (events, continuation) = AsyncStream<Event>.makeStream()
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let directory = TemporaryDirectory(in: "/tmp")
        // Used on the one loop only.
        let connections = NIOLoopBoundBox.makeBoxSendingValue(0, eventLoop: group.next())
        let coordinator = try await ServerBootstrap(group: group).childChannelInitializer { [replies] channel in
            channel.eventLoop.makeCompletedFuture {
                let number = connections.value
                connections.value += 1
                continuation.yield(.connected)
                try channel.pipeline.syncOperations.addHandler(
                    Answering(number < replies.count ? replies[number] : []))
            }
        }.bind(unixDomainSocketPath: directory.path("coordinator")).get()
        try await withRank(
            cluster, in: directory, on: group,
            observe: { event in
                if case .fatal(let error) = event { continuation.yield(.fatal(error)) }
            }
        ) {
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
        }
        try await coordinator.close()
        try await group.shutdownGracefully()
    }

    /// Asks a rank for lengths as soon as it is known, and passes its answer on.
    private final class Asking: LinkDelegate {
        let answer: AsyncStream<Message>.Continuation

        init(_ answer: AsyncStream<Message>.Continuation) { self.answer = answer }

        func link(_ link: Link, accepts hello: Hello) throws(ServiceError) -> Hello {
            throw ServiceError(.internal, "It dials.")
        }

        func link(_ link: Link, opened peer: Hello) {
            do throws(ServiceError) {
                try link.send(
                    Frame(
                        epoch: .none, tag: Tag(client: ClientID(1), number: 1),
                        message: .request(Many([GetSequenceStatus(SequenceID(1))]))))
            } catch { answer.finish() }
        }

        func link(_ link: Link, received frame: Frame) {
            answer.yield(frame.message)
            link.close(ServiceError(.shuttingDown, "Done."))
        }

        func link(_ link: Link, closed error: ServiceError) { answer.finish() }
    }

    @Test("a rank that has not joined since its start answers no lengths: it may lack what the join gives it")
    func beforeJoin() async throws {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let directory = TemporaryDirectory(in: "/tmp")
        let loop = group.next()
        let (answers, continuation) = AsyncStream<Message>.makeStream()
        try await withRank(try Self.cluster(), in: directory, on: group) {
            let asking = try await loop.submit {
                let asking = Asking(continuation)
                Dialer(eventLoop: loop).dial(
                    .unix(path: directory.path("rank")), expecting: .rank(RankIndex(0)),
                    hello: Hello(role: .client, fingerprint: nil), delegate: asking
                ) { _ in continuation.finish() }
                return NIOLoopBound(asking, eventLoop: loop)
            }.get()
            var first: Message?
            for await answer in answers where first == nil { first = answer }
            guard case .failure(let error)? = first else {
                Issue.record("it answered \(String(describing: first))")
                return
            }
            #expect(error.code == .notReady && error.rank == RankIndex(0), "\(error)")
            withExtendedLifetime(asking) {}
        }
        try await group.shutdownGracefully()
    }
}
