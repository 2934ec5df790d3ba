// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPOracle
internal import DCPTransport
internal import DCPWire
internal import Glibc
internal import NIOCore

/// Connections between simulated processes: ordered streams of bytes, as TCP makes them of a network that is worse.
///
/// What a stream hides shows as what it does to one: a lost packet is a delay of everything behind it, reordering and
/// duplication of packets vanish in it, and a partition holds bytes back until it heals or one side gives up. Streams of
/// different connections overtake each other, also an old and a new one between the same two processes. A connection may
/// be reset, which loses what is on its way; and a bit may flip.
final class SimulatedNetwork: Network, @unchecked Sendable {
    struct Path: Hashable {
        var from: String
        var to: String
    }

    private struct Point {
        let loop: SimulatedLoop
        let channel: SimulatedChannel
        let initialize: @Sendable (any Channel) -> EventLoopFuture<Void>
    }

    private let world: World
    private let knobs: NetworkKnobs
    private var points: [Endpoint: Point] = [:]
    private var blocked: Set<Path> = []
    /// Senders on blocked paths, in order of their first held segment.
    private var held: [SimulatedChannel] = []
    /// Faults stop: nothing is lost, cut or flipped any more.
    var isCalm = false

    init(world: World, knobs: NetworkKnobs) {
        self.world = world
        self.knobs = knobs
    }

    var socketBufferByteCount: Int { knobs.socketBufferByteCount }

    // MARK: Network

    var isPrivate: Bool { true }

    func listen(
        at endpoint: Endpoint, on eventLoop: any EventLoop,
        initialize: @escaping @Sendable (any Channel) -> EventLoopFuture<Void>
    ) -> EventLoopFuture<any Channel> {
        let loop = Self.loop(eventLoop)
        let channel = SimulatedChannel(loop: loop, network: self)
        points[endpoint] = Point(loop: loop, channel: channel, initialize: initialize)
        channel.closeFuture.whenComplete { [weak self] _ in
            guard let self, points[endpoint]?.channel === channel else { return }
            points[endpoint] = nil
        }
        return loop.makeSucceededFuture(channel)
    }

    func connect(
        to endpoint: Endpoint, on eventLoop: any EventLoop, timeout: TimeAmount,
        initialize: @escaping @Sendable (any Channel) -> EventLoopFuture<Void>
    ) -> EventLoopFuture<any Channel> {
        let loop = Self.loop(eventLoop)
        let promise = loop.makePromise(of: (any Channel).self)
        let channel = SimulatedChannel(loop: loop, network: self)
        channel.connecting = promise
        let deadline = world.now + UInt64(timeout.nanoseconds)
        initialize(channel).whenComplete { [self] result in
            switch result {
            case .success: knock(at: endpoint, for: channel, until: deadline)
            case .failure(let error): refuse(channel, error)
            }
        }
        return promise.futureResult
    }

    private static func loop(_ eventLoop: any EventLoop) -> SimulatedLoop {
        guard let loop = eventLoop as? SimulatedLoop else { preconditionFailure("not a loop of a simulation") }
        return loop
    }

    /// One attempt to reach a listener; repeated while a partition is in the way.
    private func knock(at endpoint: Endpoint, for channel: SimulatedChannel, until deadline: UInt64) {
        world.after(latency, channel.loop.process, "connect") { [self] in
            guard channel.isOpen else { return refuse(channel, ChannelError.ioOnClosedChannel) }
            guard let point = points[endpoint], point.channel.isOpen else {
                return refuse(channel, IOError(errnoCode: ECONNREFUSED, reason: "connect"))
            }
            if isBlocked(channel, point.channel) || isBlocked(point.channel, channel) {
                guard world.now < deadline else {
                    return refuse(channel, ChannelError.connectTimeout(.nanoseconds(0)))
                }
                world.after(UInt64(200_000_000), channel.loop.process, "connect again") { [self] in
                    knock(at: endpoint, for: channel, until: deadline)
                }
                return
            }
            accept(at: point, from: channel)
            channel.connecting?.succeed(channel)
            channel.connecting = nil
            channel.activate()
        }
    }

    private func refuse(_ channel: SimulatedChannel, _ error: any Error) {
        channel.close0(error: ChannelError.eof, mode: .all, promise: nil)
        channel.connecting?.fail(error)
        channel.connecting = nil
    }

    /// The kernel of the listener makes the connection, whether or not its process runs.
    private func accept(at point: Point, from channel: SimulatedChannel) {
        let accepted = SimulatedChannel(loop: point.loop, network: self)
        accepted.peer = channel
        channel.peer = accepted
        // Before any byte can arrive: those take a latency, too, and come later in the order.
        let soon = world.delay(.microseconds(5) ... .microseconds(40))
        channel.lastArrival = world.now + soon
        world.after(soon, point.loop.process, "accept") {
            guard accepted.isOpen else { return }
            point.initialize(accepted).whenComplete { result in
                switch result {
                case .success: accepted.activate()
                case .failure(let error): accepted.close0(error: error, mode: .all, promise: nil)
                }
            }
        }
    }

    // MARK: Memory

    /// Sent, and not received.
    var descriptors: [MemoryAddress: CInt] = [:]

    func passage(at endpoint: Endpoint, isOpen: Bool) -> (any MemoryPassage)? { SimulatedPassage(self) }

    func drawAddress() -> MemoryAddress {
        MemoryAddress(
            name: "\(world.random.next())",
            token: MemoryAddress.Token(high: world.random.next(), low: world.random.next()))
    }

    /// Not always, as where the limit of descriptors is met.
    var passesDescriptor: Bool { isCalm || !world.chance(0.1) }

    // MARK: Bytes

    private var latency: UInt64 {
        var delay = world.delay(knobs.latency)
        if !isCalm, world.chance(knobs.loss) { delay += world.delay(.milliseconds(200) ... .milliseconds(1600)) }
        return delay
    }

    /// How a write is cut into segments: mostly not at all.
    func pieces(of bytes: ByteBuffer) -> [ByteBuffer] {
        var bytes = bytes
        if !isCalm, world.chance(knobs.flips), bytes.readableBytes > 0 {
            let place = bytes.readerIndex + world.draw(0...bytes.readableBytes - 1)
            let byte: UInt8 = bytes.getInteger(at: place) ?? 0
            bytes.setInteger(byte ^ (1 << UInt8(world.draw(0...7))), at: place)
            world.trace.note("a bit flips on the way")
        }
        bytes.withUnsafeReadableBytes { world.trace.mix(UInt64(CRC32C.checksum($0))) }
        guard bytes.readableBytes > 1, world.chance(knobs.splits) else { return [bytes] }
        let cut = world.draw(1...bytes.readableBytes - 1)
        let first = bytes.readSlice(length: cut)!
        return [first, bytes]
    }

    /// A segment was added to what a channel has on its way.
    func send(from channel: SimulatedChannel) {
        guard let peer = channel.peer else { return }
        channel.lastArrival = max(channel.lastArrival + 1, world.now + latency)
        // The event brings whichever segment is then first: segments never overtake each other.
        world.at(channel.lastArrival, peer.loop.process, "bytes") { [self] in arrive(from: channel) }
    }

    private func arrive(from channel: SimulatedChannel) {
        guard let peer = channel.peer else { return }
        guard !isBlocked(channel, peer) else {
            if !held.contains(where: { $0 === channel }) { held.append(channel) }
            return
        }
        guard let segment = channel.takeOutbound() else { return }
        peer.receive(segment)
        if case .end = segment { channel.peer = nil }
    }

    /// A channel was closed by its own side.
    func ended(_ channel: SimulatedChannel) {
        guard channel.peer != nil else { return }
        // A socket that is closed with unread input resets, and a reset overtakes what is on its way.
        let isReset = !isCalm && world.chance(knobs.resets)
        channel.cutOutbound(to: isReset ? world.draw(0...channel.outbound.count) : channel.outbound.count)
        send(from: channel)
    }

    /// A process has died. If its machine died too, peers learn of it only at `tellPeers`.
    func died(_ process: Process, withMachine: Bool) -> [SimulatedChannel] {
        let channels = process.channels
        process.channels = []
        for channel in channels { channel.vanish() }
        points = points.filter { $0.value.loop !== channels.first?.loop && $0.value.loop.process !== process }
        if withMachine {
            // What was on its way is lost with the machine's memory, as far as it had not left.
            for channel in channels { channel.cutOutbound(to: world.draw(0...channel.outbound.count)) }
            return channels
        }
        for channel in channels { ended(channel) }
        return []
    }

    func tellPeers(of channels: [SimulatedChannel]) { for channel in channels { send(from: channel) } }

    /// Breaks the connections between two processes, at both ends.
    func reset(_ a: String, _ b: String, _ processes: [Process]) {
        for process in processes where process.name == a && process.isAlive {
            for channel in process.channels where channel.peer?.loop.process.name == b {
                let peer = channel.peer
                world.after(latency, process, "reset") {
                    channel.close0(error: ChannelError.eof, mode: .all, promise: nil)
                }
                if let peer {
                    world.after(latency, peer.loop.process, "reset") {
                        peer.close0(error: ChannelError.eof, mode: .all, promise: nil)
                    }
                }
            }
        }
    }

    // MARK: Partitions

    private func isBlocked(_ from: SimulatedChannel, _ to: SimulatedChannel) -> Bool {
        !blocked.isEmpty && blocked.contains(Path(from: from.loop.process.name, to: to.loop.process.name))
    }

    func block(_ path: Path) { blocked.insert(path) }

    func heal(_ path: Path) {
        blocked.remove(path)
        let waiting = held
        held = []
        for channel in waiting {
            for _ in channel.outbound { send(from: channel) }
        }
    }

    /// The simulation is over. Held channels hold this.
    func dropEverything() {
        held = []
        for descriptor in descriptors.values { close(descriptor) }
        descriptors = [:]
    }

    func healAll() { for path in blocked.sorted(by: { ($0.from, $0.to) < ($1.from, $1.to) }) { heal(path) } }
}
