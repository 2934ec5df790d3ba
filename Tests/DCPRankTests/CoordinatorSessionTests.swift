// SPDX-License-Identifier: Apache-2.0

import DCPCache
import DCPCore
import DCPRank
import DCPStore
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
        settings: ShardCache.Settings = ShardCache.Settings(), prepare: (ShardCache) async throws -> Void = { _ in },
        observe: @escaping @Sendable (RankEvent) -> Void = { _ in }, _ body: () async throws -> Void
    ) async throws {
        let loop = group.next()
        let cache = try ShardCache.open(
            directory: directory.path("store"), rank: RankIndex(0), cluster: cluster, settings: settings)
        try await prepare(cache)
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
        let epoch: Epoch
        let answer: AsyncStream<Message>.Continuation

        init(in epoch: Epoch, _ answer: AsyncStream<Message>.Continuation) {
            self.epoch = epoch
            self.answer = answer
        }

        func link(_ link: Link, accepts hello: Hello) throws(ServiceError) -> Hello {
            throw ServiceError(.internal, "It dials.")
        }

        func link(_ link: Link, opened peer: Hello) {
            do throws(ServiceError) {
                try link.send(
                    Frame(
                        epoch: epoch, tag: Tag(client: ClientID(1), number: 1),
                        message: .request(Many([GetSequenceStatus(SequenceID(1))]))))
            } catch { answer.finish() }
        }

        func link(_ link: Link, received frame: Frame) {
            answer.yield(frame.message)
            link.close(ServiceError(.shuttingDown, "Done."))
        }

        func link(_ link: Link, closed error: ServiceError) { answer.finish() }
    }

    /// What the rank answers to a client that asks for lengths in an epoch.
    private static func lengths(
        of rank: Endpoint, in epoch: Epoch, on loop: any EventLoop
    ) async throws -> Message? {
        let (answers, continuation) = AsyncStream<Message>.makeStream()
        let asking = try await loop.submit {
            let asking = Asking(in: epoch, continuation)
            Dialer(eventLoop: loop).dial(
                rank, expecting: .rank(RankIndex(0)), hello: Hello(role: .client, fingerprint: nil), delegate: asking
            ) { _ in continuation.finish() }
            return NIOLoopBound(asking, eventLoop: loop)
        }.get()
        var first: Message?
        for await answer in answers where first == nil { first = answer }
        withExtendedLifetime(asking) {}
        return first
    }

    /// A coordinator of one rank. It takes the rank into epoch 1, does what the test says, and passes on what the rank
    /// says.
    private final class Coordinator: LinkDelegate {
        private let cluster: ClusterShape
        private let rank: Endpoint
        private let heard: AsyncStream<Message>.Continuation
        private var link: Link?

        init(_ cluster: ClusterShape, of rank: Endpoint, _ heard: AsyncStream<Message>.Continuation) {
            self.cluster = cluster
            self.rank = rank
            self.heard = heard
        }

        func link(_ link: Link, accepts hello: Hello) throws(ServiceError) -> Hello {
            Hello(role: .coordinator, fingerprint: LayoutFingerprint(cluster))
        }

        func link(_ link: Link, opened peer: Hello) { self.link = link }

        func link(_ link: Link, received frame: Frame) {
            if case .register(let registration) = frame.message, registration.epoch == .none {
                tell(.joining)
            } else {
                heard.yield(frame.message)
            }
        }

        func link(_ link: Link, closed error: ServiceError) {}

        func tell(_ phase: Topology.Phase) {
            send(
                .topology(
                    Topology(
                        epoch: Epoch(1), phase: phase, reason: "", shape: cluster, leaseMilliseconds: 60_000,
                        members: [Topology.Member(rank: RankIndex(0), endpoint: rank)], cluster: ClusterID(1))))
        }

        func open(_ ids: ClosedRange<UInt64>) {
            for id in ids {
                let record = SequenceRecord(id: SequenceID(id), name: "s\(id)", model: ModelID(1))
                send(.operation(.open(record)), number: id)
            }
        }

        private func send(_ message: Message, number: UInt64 = 0) {
            do throws(ServiceError) {
                try link?.send(
                    Frame(epoch: Epoch(1), tag: Tag(client: ClientID(0), number: number), message: message))
            } catch {
                Issue.record("\(error)")
            }
        }
    }

    /// From here on the rank finds a coordinator.
    private static func coordinator(
        of cluster: ClusterShape, in directory: TemporaryDirectory, on loop: any EventLoop,
        _ heard: AsyncStream<Message>.Continuation
    ) async throws -> NIOLoopBound<Coordinator> {
        let (rank, place) = (Endpoint.unix(path: directory.path("rank")), directory.path("coordinator"))
        return try await loop.flatSubmit { () -> EventLoopFuture<NIOLoopBound<Coordinator>> in
            let coordinator = Coordinator(cluster, of: rank, heard)
            let bound = NIOLoopBound(coordinator, eventLoop: loop)
            let listener = Listener(.unix(path: place), as: .coordinator, eventLoop: loop)
            return listener.start(delegate: coordinator).map { bound }
        }.get()
    }

    @Test(
        "a rank answers no lengths before the first join since its start is over: it may lack what the join gives it")
    func beforeJoin() async throws {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let directory = TemporaryDirectory(in: "/tmp")
        let loop = group.next()
        let cluster = try Self.cluster()
        let rank = Endpoint.unix(path: directory.path("rank"))
        let (heard, hearing) = AsyncStream<Message>.makeStream()
        let (ready, becoming) = AsyncStream<Void>.makeStream()
        try await withRank(
            cluster, in: directory, on: group,
            observe: { if case .ready = $0 { becoming.yield() } }
        ) {
            func expectRefusal(_ when: String) async throws {
                let answer = try await Self.lengths(of: rank, in: .none, on: loop)
                guard case .failure(let error)? = answer else {
                    Issue.record("\(when) it answered \(String(describing: answer))")
                    return
                }
                #expect(error.code == .notReady && error.rank == RankIndex(0), "\(when): \(error)")
            }
            try await expectRefusal("before it has a coordinator")
            let coordinator = try await Self.coordinator(of: cluster, in: directory, on: loop, hearing)
            // With the epoch in its store it registers again, and waits for what the coordinator gives it.
            for await message in heard {
                if case .register = message { break }
            }
            try await expectRefusal("during the join")
            // Whoever asks in this epoch has heard that it is ready, before the rank has.
            let answer = try await Self.lengths(of: rank, in: Epoch(1), on: loop)
            guard case .reply(_)? = answer else {
                Issue.record("in its epoch it answered \(String(describing: answer))")
                return
            }
            try await loop.submit { coordinator.value.tell(.ready) }.get()
            for await _ in ready { break }
            guard case .reply(let body)? = try await Self.lengths(of: rank, in: .none, on: loop) else {
                Issue.record("it does not answer after the join")
                return
            }
            let codes = try body.reply(to: Many<GetSequenceStatus>.self).answers.map { answer -> ServiceError.Code? in
                if case .failure(let error) = answer { error.code } else { nil }
            }
            #expect(codes == [.unknownSequence])
        }
        try await group.shutdownGracefully()
    }

    private static func finish(_ start: (@escaping CacheCompletion) -> Void) async throws {
        try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<Void, any Error>) in
            start { continuation.resume(with: $0) }
        }
    }

    /// Opens sequences of model 1 until the store has no room for another.
    private static func fill(_ cache: ShardCache) async throws {
        let model = try ModelDescription(
            layers: 1, queryHeads: 1, kvHeads: 1, keyDim: 8, valueDim: 8, scale: 1, softcap: nil, kvFormat: .float32)
        try await finish { cache.putModel(id: ModelID(1), name: "m", description: model, completion: $0) }
        do {
            for id in 1...UInt64(1 << 20) {
                try await finish { cache.openSequence(id: SequenceID(id), model: ModelID(1), completion: $0) }
            }
            Issue.record("the store never filled up")
        } catch let error as ServiceError {
            #expect(error.code == .storeFull, "\(error)")
        }
    }

    @Test("what a join gives a rank finds room in a full store, and what comes after the join does not")
    func fullStore() async throws {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let directory = TemporaryDirectory(in: "/tmp")
        let loop = group.next()
        let cluster = try Self.cluster()
        let (heard, hearing) = AsyncStream<Message>.makeStream()
        try await withRank(
            cluster, in: directory, on: group,
            settings: ShardCache.Settings(mapByteCountMax: 1 << 21, durability: .never), prepare: Self.fill
        ) {
            let coordinator = try await Self.coordinator(of: cluster, in: directory, on: loop, hearing)
            var messages = heard.makeAsyncIterator()
            while let message = await messages.next() {
                if case .register = message { break }
            }
            // More than a page of records.
            try await loop.submit { coordinator.value.open(2_000_000...2_000_099) }.get()
            var done = 0
            while done < 100, let message = await messages.next() {
                switch message {
                case .operationDone: done += 1
                case .failure(let error):
                    Issue.record("\(error)")
                    return
                default: break
                }
            }
            try await loop.submit {
                coordinator.value.tell(.ready)
                coordinator.value.open(2_000_100...2_000_100)
            }.get()
            while let message = await messages.next() {
                guard case .failure(let error) = message else {
                    if case .operationDone = message {
                        Issue.record("it was taken")
                        return
                    }
                    continue
                }
                #expect(error.code == .storeFull, "\(error)")
                return
            }
        }
        try await group.shutdownGracefully()
    }
}
