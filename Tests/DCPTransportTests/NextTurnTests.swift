// SPDX-License-Identifier: Apache-2.0

import DCPTransport
import Glibc
import NIOCore
import NIOPosix
import Synchronization
import Testing

@Suite("EventLoop.nextTurn: long work in pieces", .timeLimit(.minutes(1)))
struct NextTurnTests {
    private final class Reader: ChannelInboundHandler, Sendable {
        typealias InboundIn = ByteBuffer
        let hasRead = Atomic(false)
        func channelRead(context: ChannelHandlerContext, data: NIOAny) { hasRead.store(true, ordering: .relaxed) }
    }

    @Test("between two pieces the loop reads what has come")
    func reads() async throws {
        var ends: [Int32] = [-1, -1]
        try #require(pipe(&ends) == 0)
        let write = ends[1]
        defer { close(write) }
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let reader = Reader()
        let channel = try await NIOPipeBootstrap(group: group)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(reader) }
            }
            .takingOwnershipOfDescriptor(input: ends[0]).get()
        let loop = channel.eventLoop
        let pieces = loop.makePromise(of: Int.self)
        @Sendable func piece(_ number: Int) {
            guard number < 1000, !reader.hasRead.load(ordering: .relaxed) else { return pieces.succeed(number) }
            loop.nextTurn { piece(number + 1) }
        }
        loop.execute {
            // In the same turn: it cannot be read before the first piece.
            #expect(Glibc.write(write, "x", 1) == 1)
            piece(0)
        }
        #expect(try await pieces.futureResult.get() < 10)
        try await channel.close().get()
        try await group.shutdownGracefully()
    }
}
