// SPDX-License-Identifier: Apache-2.0

import DCPTransport
import NIOCore
import NIOEmbedded
import Testing

/// In a time that the tests set: what a peer takes, and when, is theirs to say.
@Suite("what a link has written and its peer has not taken")
struct OutboundFramesTests {
    /// Holds what is written until it is taken.
    private final class SlowPeer: ChannelOutboundHandler {
        typealias OutboundIn = ByteBuffer
        private(set) var pieces: [(byteCount: Int, promise: EventLoopPromise<Void>?)] = []

        func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
            pieces.append((unwrapOutboundIn(data).readableBytes, promise))
        }

        /// - Returns: the bytes of the first piece, which is taken now.
        func takeOne() -> Int {
            let piece = pieces.removeFirst()
            piece.promise?.succeed()
            return piece.byteCount
        }
    }

    private final class Stalls { var count = 0 }

    private let peer = SlowPeer()
    private let stalls = Stalls()
    private let loop = EmbeddedEventLoop()

    private func outbound() -> OutboundFrames {
        let frames = OutboundFrames(
            channel: EmbeddedChannel(handler: peer, loop: loop), stallTimeout: .seconds(30))
        frames.stalled = { [stalls] in stalls.count += 1 }
        return frames
    }

    @Test("a peer that takes a large frame slowly has not stalled; its bytes leave the queue as it takes them")
    func slow() {
        let frames = outbound()
        var isDone = false
        let byteCount = (8 << 20) + 100
        frames.write([ByteBuffer(repeating: 1, count: 40), ByteBuffer(repeating: 2, count: byteCount - 40)]) {
            isDone = true
        }
        #expect(frames.queuedByteCount == byteCount && frames.writtenByteCount == UInt64(byteCount))
        var left = byteCount
        while !peer.pieces.isEmpty {
            #expect(!isDone)
            loop.advanceTime(by: .seconds(29))
            while !peer.pieces.isEmpty, frames.queuedByteCount == left { _ = peer.takeOne() }
            #expect(frames.queuedByteCount < left && left - frames.queuedByteCount <= 2 << 20)
            left = frames.queuedByteCount
        }
        #expect(isDone && left == 0 && stalls.count == 0)
        // Nothing is queued: no time is too long.
        loop.advanceTime(by: .seconds(3600))
        #expect(stalls.count == 0)
    }

    @Test("a peer that takes nothing for the stall timeout has stalled", arguments: [100, 3 << 20])
    func stalled(byteCount: Int) {
        let frames = outbound()
        frames.write([ByteBuffer(repeating: 1, count: byteCount)])
        loop.advanceTime(by: .seconds(29))
        #expect(stalls.count == 0)
        loop.advanceTime(by: .seconds(1))
        #expect(stalls.count == 1)
    }
}
