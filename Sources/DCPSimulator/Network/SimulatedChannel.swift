// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import NIOCore

/// One end of a simulated connection. What is flushed goes into `outbound`, from which the network delivers it.
final class SimulatedChannel: Channel, ChannelCore, @unchecked Sendable {
    enum Segment {
        case bytes(ByteBuffer)
        /// The connection has ended; the last segment.
        case end
    }

    let loop: SimulatedLoop
    private let network: SimulatedNetwork
    /// The other end; nil before the connection is made, and once it has heard that this one has ended.
    weak var peer: SimulatedChannel?
    private(set) var isOpen = true
    private(set) var isActive = false
    /// On its way to the peer, in order.
    private(set) var outbound: [Segment] = []
    private var pending: [(bytes: ByteBuffer, promise: EventLoopPromise<Void>?)] = []
    /// Writes that wait for room in the socket's buffer: each completes when `arrived` bytes have arrived.
    private var blocked: [(arrived: Int, promise: EventLoopPromise<Void>)] = []
    private var sentByteCount = 0
    private var arrivedByteCount = 0
    /// The dialler's promise, until the connection is made.
    var connecting: EventLoopPromise<any Channel>?
    /// When the last segment arrives, at the earliest.
    var lastArrival: UInt64 = 0

    let closePromise: EventLoopPromise<Void>
    private(set) lazy var pipeline = ChannelPipeline(channel: self)

    init(loop: SimulatedLoop, network: SimulatedNetwork) {
        self.loop = loop
        self.network = network
        closePromise = loop.makePromise()
        loop.process.channels.append(self)
    }

    var eventLoop: any EventLoop { loop }
    var allocator: ByteBufferAllocator { ByteBufferAllocator() }
    var closeFuture: EventLoopFuture<Void> { closePromise.futureResult }
    var localAddress: SocketAddress? { nil }
    var remoteAddress: SocketAddress? { nil }
    var parent: (any Channel)? { nil }
    var isWritable: Bool { true }
    var _channelCore: any ChannelCore { self }

    func setOption<Option: ChannelOption>(_ option: Option, value: Option.Value) -> EventLoopFuture<Void> {
        loop.makeSucceededVoidFuture()
    }

    func getOption<Option: ChannelOption>(_ option: Option) -> EventLoopFuture<Option.Value> {
        loop.makeFailedFuture(ChannelError.operationUnsupported)
    }

    /// Both ends exist: bytes may flow.
    func activate() {
        guard isOpen, !isActive else { return }
        isActive = true
        pipeline.syncOperations.fireChannelActive()
    }

    // MARK: Called by the network

    /// The next segment, taken off.
    func takeOutbound() -> Segment? {
        guard !outbound.isEmpty else { return nil }
        let segment = outbound.removeFirst()
        if case .bytes(let bytes) = segment { arrivedByteCount += bytes.readableBytes }
        if let first = blocked.first, first.arrived <= arrivedByteCount { loop.execute { [self] in unblock() } }
        return segment
    }

    private func unblock() {
        while let first = blocked.first, first.arrived <= arrivedByteCount {
            blocked.removeFirst()
            first.promise.succeed(())
        }
    }

    func receive(_ segment: Segment) {
        guard isOpen else { return }
        switch segment {
        case .bytes(let bytes):
            pipeline.syncOperations.fireChannelRead(NIOAny(bytes))
            pipeline.syncOperations.fireChannelReadComplete()
        case .end:
            close0(error: ChannelError.eof, mode: .all, promise: nil)
        }
    }

    /// Replaces what is on its way by its first `kept` segments and the end: a reset overtakes data.
    func cutOutbound(to kept: Int) {
        outbound.removeLast(max(outbound.count - kept, 0))
        outbound.append(.end)
    }

    /// The process has died without any callbacks.
    ///
    /// But each promise is completed: a future that is not keeps itself and its callbacks, and these the daemon, for good. The
    /// daemon has been abandoned before, and does nothing about it.
    func vanish() {
        isOpen = false
        isActive = false
        removeHandlers(pipeline: pipeline)
        closePromise.succeed(())
        failWrites()
        connecting?.fail(ChannelError.ioOnClosedChannel)
        connecting = nil
    }

    private func failWrites() {
        let lost = pending.compactMap(\.promise) + blocked.map(\.promise)
        pending = []
        blocked = []
        for promise in lost { promise.fail(ChannelError.ioOnClosedChannel) }
    }

    // MARK: ChannelCore

    func localAddress0() throws -> SocketAddress { throw ChannelError.operationUnsupported }
    func remoteAddress0() throws -> SocketAddress { throw ChannelError.operationUnsupported }
    func register0(promise: EventLoopPromise<Void>?) { promise?.succeed(()) }
    func registerAlreadyConfigured0(promise: EventLoopPromise<Void>?) { promise?.succeed(()) }
    func bind0(to: SocketAddress, promise: EventLoopPromise<Void>?) { promise?.succeed(()) }
    func connect0(to: SocketAddress, promise: EventLoopPromise<Void>?) { promise?.succeed(()) }
    func read0() {}
    func channelRead0(_ data: NIOAny) {}
    func errorCaught0(error: any Error) {}

    func triggerUserOutboundEvent0(_ event: Any, promise: EventLoopPromise<Void>?) {
        promise?.fail(ChannelError.operationUnsupported)
    }

    func write0(_ data: NIOAny, promise: EventLoopPromise<Void>?) {
        guard isOpen else {
            promise?.fail(ChannelError.ioOnClosedChannel)
            return
        }
        pending.append((unwrapData(data, as: ByteBuffer.self), promise))
    }

    func flush0() {
        let writes = pending
        pending = []
        for (bytes, promise) in writes {
            for piece in network.pieces(of: bytes) {
                outbound.append(.bytes(piece))
                network.send(from: self)
            }
            sentByteCount += bytes.readableBytes
            guard let promise else { continue }
            if sentByteCount - arrivedByteCount <= network.socketBufferByteCount {
                promise.succeed(())
            } else {
                blocked.append((sentByteCount - network.socketBufferByteCount, promise))
            }
        }
    }

    func close0(error: any Error, mode: CloseMode, promise: EventLoopPromise<Void>?) {
        guard isOpen else {
            promise?.fail(ChannelError.alreadyClosed)
            return
        }
        isOpen = false
        let wasActive = isActive
        isActive = false
        network.ended(self)
        promise?.succeed(())
        failWrites()
        if wasActive { pipeline.syncOperations.fireChannelInactive() }
        // Later, since handlers of the pipeline may be running: as in NIO's own channels.
        loop.execute { [self] in
            removeHandlers(pipeline: pipeline)
            closePromise.succeed(())
            connecting?.fail(ChannelError.ioOnClosedChannel)
            connecting = nil
            loop.process.channels.removeAll { $0 === self }
        }
    }
}
