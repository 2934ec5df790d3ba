// SPDX-License-Identifier: Apache-2.0

internal import DCPWire
package import NIOCore

/// What a link has written and its peer has not taken yet. Confined to the channel's loop.
package final class OutboundFrames {
    private let channel: any Channel
    private let stallTimeout: TimeAmount
    package private(set) var queuedByteCount = 0
    /// Over the life of the link.
    package private(set) var writtenByteCount: UInt64 = 0
    private var lastProgress: NIODeadline
    private var stallCheck: Scheduled<Void>?
    private var closesWhenTaken = false
    /// Something was written in this turn of the loop.
    private var isFlushDue = false

    /// Called when the peer has taken none of the queued bytes for the stall timeout.
    package var stalled: (() -> Void)?

    /// The peer is seen to take a large frame piece by piece, however slow it is.
    private static let pieceByteCount = 1 << 20

    package init(channel: any Channel, stallTimeout: TimeAmount) {
        self.channel = channel
        self.stallTimeout = stallTimeout
        lastProgress = channel.eventLoop.now
    }

    /// - Parameter done: called when all of it has been taken, or the channel has closed.
    package func write(_ parts: [ByteBuffer], done: (() -> Void)? = nil) {
        let byteCount = parts.readableByteCount
        queuedByteCount += byteCount
        writtenByteCount += UInt64(byteCount)
        if stallCheck == nil {
            lastProgress = channel.eventLoop.now
            scheduleStallCheck()
        }
        let bound = NIOLoopBound(self, eventLoop: channel.eventLoop)
        let pieces = byteCount > Self.pieceByteCount ? parts.flatMap { $0.pieces(of: Self.pieceByteCount) } : parts
        var unconfirmed = 0
        for piece in pieces.dropLast() {
            unconfirmed += piece.readableBytes
            guard unconfirmed >= Self.pieceByteCount else {
                channel.write(piece, promise: nil)
                continue
            }
            let taken = unconfirmed
            unconfirmed = 0
            channel.write(piece).whenComplete { _ in bound.value.took(taken) }
        }
        let last = pieces.last!
        let taken = unconfirmed + last.readableBytes
        let written = channel.write(last)
        written.whenComplete { _ in bound.value.took(taken) }
        if let done {
            let done = NIOLoopBound(done, eventLoop: channel.eventLoop)
            written.whenComplete { _ in done.value() }
        }
        if !isFlushDue { channel.eventLoop.execute { bound.value.flush() } }
        isFlushDue = true
    }

    /// Everything written in a turn of the loop is sent in one system call, after the turn's reads.
    func flush() {
        guard isFlushDue else { return }
        isFlushDue = false
        channel.flush()
    }

    /// Closes the channel as soon as everything before has been taken.
    func closeWhenTaken() {
        closesWhenTaken = true
        if queuedByteCount == 0 { channel.close(promise: nil) }
    }

    /// The channel has closed.
    func end() { stallCheck?.cancel() }

    private func took(_ byteCount: Int) {
        queuedByteCount -= byteCount
        lastProgress = channel.eventLoop.now
        if closesWhenTaken, queuedByteCount == 0 { channel.close(promise: nil) }
    }

    /// A peer that does not read would hold memory forever. One timer per link, re-armed while bytes are queued.
    private func scheduleStallCheck() {
        let bound = NIOLoopBound(self, eventLoop: channel.eventLoop)
        stallCheck = channel.eventLoop.scheduleTask(in: stallTimeout) { bound.value.checkStall() }
    }

    private func checkStall() {
        stallCheck = nil
        guard queuedByteCount > 0 else { return }
        if channel.eventLoop.now - lastProgress >= stallTimeout {
            stalled?()
        } else {
            scheduleStallCheck()
        }
    }
}

extension ByteBuffer {
    /// The same bytes in buffers of at most so many, which share its memory.
    fileprivate func pieces(of byteCount: Int) -> [ByteBuffer] {
        var rest = self
        var pieces: [ByteBuffer] = []
        while rest.readableBytes > byteCount { pieces.append(rest.readSlice(length: byteCount)!) }
        pieces.append(rest)
        return pieces
    }
}
