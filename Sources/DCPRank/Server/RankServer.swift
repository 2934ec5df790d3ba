// SPDX-License-Identifier: Apache-2.0

public import DCPCache
public import DCPCore
internal import DCPObservability
public import DCPTransport
internal import DCPWire
internal import Glibc
public import NIOCore

/// A rank: it serves clients' steps, commits and queries, exchanges messages with its head group, and applies the
/// coordinator's operations.
///
/// DESIGN: everything here is confined to one event loop, without locks. Frames come in on the loop, go through
/// values (`StepMachine`, `LayerCursors`, `StepTable`) and leave as frames or as jobs; compute threads and the store's
/// writer thread do what takes time and come back to the loop. So messages of one link are handled in the order they
/// were sent, and nothing ever waits on the loop. What is computed there is bounded for each of its turns (`LoopWork`).
public final class RankServer {
    let configuration: RankConfiguration
    let cluster: ClusterShape
    let cache: ShardCache
    let pool: ComputePool
    let loopWork: LoopWork
    let eventLoop: any EventLoop
    let observe: (RankEvent) -> Void

    /// This rank's hello.
    let hello: Hello
    let peers: PeerLinks
    let port: GroupPort
    private(set) var coordinator: CoordinatorSession!
    let listener: Listener
    let hostReporter: HostReporter
    let copies: StoreCopies

    /// The steps in flight, and the bytes that they hold.
    var steps: StepTable
    var cursors = LayerCursors()
    var recentContexts = RecentContexts()
    /// Commits, forks and changes of sequences, and what waits for the end of any work on them.
    var work = SequenceWork()
    var owners = SequenceOwners()
    var uses: UseLog
    /// What is being read back for clients, until it is sent.
    var readBytes = ByteBudget(byteCountMax: RankServer.readsInFlightByteCountMax)
    var clients = ClientLinks()
    var counters = RankCounters()
    /// The verification that runs, or the last one.
    var verification: VerificationRun?
    var upkeep: Upkeep
    var stopping: Stopping

    /// - Parameters:
    ///   - cache: open, of this rank and cluster.
    ///   - eventLoop: where everything happens.
    ///   - observe: called on the loop.
    public init(
        _ configuration: RankConfiguration, cluster: ClusterShape, cache: ShardCache, pool: ComputePool,
        eventLoop: any EventLoop, observe: @escaping (RankEvent) -> Void
    ) {
        self.configuration = configuration
        self.cluster = cluster
        self.cache = cache
        self.pool = pool
        loopWork = LoopWork(eventLoop: eventLoop, threads: pool.threads, turnMax: configuration.loopWorkMax)
        self.eventLoop = eventLoop
        self.observe = observe
        upkeep = Upkeep(memoryIdle: configuration.memoryIdle)
        stopping = Stopping(on: eventLoop)
        uses = UseLog(cache.heldSequences.sorted { $0.lastChange < $1.lastChange }.lazy.map(\.id))
        steps = StepTable(
            earlyByteCountMax: configuration.earlyByteCountMax, byteCountMax: configuration.stepByteCountMax)
        let dialer = Dialer(eventLoop: eventLoop, settings: configuration.link)
        hello = Hello(
            role: .rank, rank: configuration.rank, fingerprint: LayoutFingerprint(cluster),
            features: configuration.link.features)
        peers = PeerLinks(
            own: configuration.rank,
            group: cluster.members(ofHeadGroup: cluster.headGroup(of: configuration.rank)), hello: hello,
            dialer: dialer, eventLoop: eventLoop, redialDelay: configuration.redialDelay,
            report: { observe(.peerNotReached($0, $1)) })
        port = GroupPort(of: configuration.rank, in: cluster, peers)
        listener = Listener(
            configuration.listen, as: .rank(configuration.rank), eventLoop: eventLoop, settings: configuration.link)
        hostReporter = HostReporter(configuration.hostReport, eventLoop: eventLoop)
        copies = StoreCopies(eventLoop: eventLoop, diskWork: configuration.copyWork)
        coordinator = CoordinatorSession(server: self, hello: hello, dialer: dialer)
    }

    /// Listens, then registers. The future fails when the endpoint cannot be bound.
    public func start() -> EventLoopFuture<Void> {
        eventLoop.preconditionInEventLoop()
        let bound = NIOLoopBound(self, eventLoop: eventLoop)
        upkeep.start(on: eventLoop) { bound.value.keepUp() }
        return listener.start(delegate: self).map {
            let server = bound.value
            server.observe(.listening("\(server.listener.endpoint)"))
            server.observeStore()
            server.coordinator.start(advertising: server.configuration.advertise ?? server.listener.endpoint)
        }
    }

    /// What is due every second.
    private func keepUp() {
        let now = eventLoop.now
        steps.expireEarly(now: now)
        recentContexts.expire(at: now)
        endAbandonedClaims()
        cache.retryDeletions()
        if upkeep.releasesMemory(at: now) { cache.releaseIdle() }
    }

    deinit { stopping.close.succeed() }

    /// Lets go of steps and links without telling anybody, as the death of the process would: for simulations, in which
    /// the process lives on. Nothing may be asked of the server after it.
    package func abandon() {
        upkeep.stop()
        for execution in steps.inOrder({ _ in true }) { steps.remove(execution.tag) }
        clients.removeAll()
        work.abandon()
        loopWork.abandon()
        pool.abandon()
        stopping.drain?.fail(ServiceError(.shuttingDown, "The process has ended."))
        peers.abandon()
        coordinator.abandon()
        copies.endAll()
        coordinator = nil
    }

    /// Of the connections that came to this rank, on its loop.
    public var refusedConnections: RefusedConnections { listener.refused }

    var traffic: (received: UInt64, sent: UInt64) {
        let links = clients.inOrder + peers.links.filter { !clients.contains($0) }
        return links.reduce((counters.receivedByteCount, counters.sentByteCount)) {
            ($0.0 + $1.receivedByteCount, $0.1 + $1.sentByteCount)
        }
    }

    /// Payloads sent through shared memory by this rank.
    package var memoryTraffic: SharedRings.Traffic {
        peers.links.reduce(into: counters.memoryTraffic) { $0 += $1.memoryTraffic }
    }

    var processID: UInt32 { UInt32(getpid()) }
}
