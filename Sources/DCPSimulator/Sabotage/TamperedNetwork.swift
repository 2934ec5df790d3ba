// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPTransport
internal import DCPWire
internal import NIOCore

/// A simulated network on which the frames of one rank are changed before they leave it, and before they reach it.
final class TamperedNetwork: Network {
    private let network: SimulatedNetwork
    private let sabotage: Sabotage
    private let rank: RankIndex

    init(_ network: SimulatedNetwork, sabotage: Sabotage, rank: RankIndex) {
        self.network = network
        self.sabotage = sabotage
        self.rank = rank
    }

    var isPrivate: Bool { network.isPrivate }

    func listen(
        at endpoint: Endpoint, on eventLoop: any EventLoop,
        initialize: @escaping @Sendable (any Channel) -> EventLoopFuture<Void>
    ) -> EventLoopFuture<any Channel> {
        network.listen(at: endpoint, on: eventLoop) { [self] in tampered($0, initialize) }
    }

    func connect(
        to endpoint: Endpoint, on eventLoop: any EventLoop, timeout: TimeAmount,
        initialize: @escaping @Sendable (any Channel) -> EventLoopFuture<Void>
    ) -> EventLoopFuture<any Channel> {
        network.connect(to: endpoint, on: eventLoop, timeout: timeout) { [self] in tampered($0, initialize) }
    }

    func passage(at endpoint: Endpoint, isOpen: Bool) -> (any MemoryPassage)? {
        network.passage(at: endpoint, isOpen: isOpen)
    }

    private func tampered(
        _ channel: any Channel, _ initialize: (any Channel) -> EventLoopFuture<Void>
    ) -> EventLoopFuture<Void> {
        do {
            try channel.pipeline.syncOperations.addHandler(FrameTamper(sabotage, rank), position: .first)
        } catch {
            return channel.eventLoop.makeFailedFuture(error)
        }
        return initialize(channel)
    }
}

/// Changes the frames of one connection of a rank. The first handler of its pipeline: the link is behind it.
private final class FrameTamper: ChannelDuplexHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let sabotage: Sabotage
    private let rank: RankIndex
    private var inbound = FrameSplitter()
    private var outbound = FrameSplitter()
    /// Of the frame that is with the rank, until the rank answers it.
    private var unanswered: Tag?

    init(_ sabotage: Sabotage, _ rank: RankIndex) {
        self.sabotage = sabotage
        self.rank = rank
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        inbound.append(unwrapInboundIn(data))
        while let (bytes, frame) = inbound.next() {
            unanswered = frame?.tag
            for part in frame.flatMap(sabotage.received)?.encode() ?? [bytes] {
                context.fireChannelRead(wrapInboundOut(part))
            }
            // What the rank refuses, it has refused by now.
            guard let frame, unanswered == frame.tag, let answer = sabotage.answer(to: frame) else { continue }
            let early = Frame(epoch: frame.epoch, tag: frame.tag, sender: rank, message: answer)
            for part in early.encode() { context.write(wrapOutboundOut(part), promise: nil) }
            context.flush()
        }
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        outbound.append(unwrapOutboundIn(data))
        var parts: [ByteBuffer] = []
        var hasLost = false
        while let (bytes, frame) = outbound.next() {
            if let frame, frame.tag == unanswered { unanswered = nil }
            if let frame, sabotage.loses(frame) {
                hasLost = true
                continue
            }
            parts += frame.flatMap { sabotage.sent($0, by: rank) }?.encode() ?? [bytes]
        }
        guard let last = parts.popLast() else {
            precondition(promise == nil || hasLost, "a link waits for the last part of a frame alone")
            promise?.succeed(())
            return
        }
        for part in parts { context.write(wrapOutboundOut(part), promise: nil) }
        context.write(wrapOutboundOut(last), promise: promise)
    }
}

/// Splits one direction of a connection into frames, each with its bytes.
private struct FrameSplitter {
    private var bytes = ByteBuffer()
    private var decoder = FrameDecoder(limits: FrameLimits())
    /// A frame was damaged, or its payload is in memory: from here on bytes pass as they are.
    private var isBlind = false

    mutating func append(_ new: ByteBuffer) {
        var new = new
        if bytes.readableBytes == 0 { bytes = new } else { bytes.writeBuffer(&new) }
    }

    /// - Returns: the bytes that pass next, and the frame that they are if it can be read; nil if more are needed.
    mutating func next() -> (bytes: ByteBuffer, frame: Frame?)? {
        guard bytes.readableBytes > 0 else { return nil }
        let all = bytes
        if !isBlind {
            do throws(ServiceError) {
                guard let frame = try decoder.next(from: &bytes) else { return nil }
                return (all.getSlice(at: all.readerIndex, length: all.readableBytes - bytes.readableBytes)!, frame)
            } catch {
                isBlind = true
            }
        }
        bytes = ByteBuffer()
        return (all, nil)
    }
}
