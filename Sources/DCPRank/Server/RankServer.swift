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
    var recentContexts = RecentContexts()
    let eventLoop: any EventLoop
    let observe: (RankEvent) -> Void

    var counters = RankCounters()
    var steps: StepTable
    var cursors = LayerCursors()
    /// Sequences that an operation of the coordinator is changing: no step is taken for them.
    var changing: Set<SequenceID> = []
    var owners = SequenceOwners()
    /// Bytes that the steps in flight hold.
    var stepByteCount = 0
    var commitsInFlight = 0
    /// Number of running commits and forks of a sequence; no entry for none.
    var writesOn: [SequenceID: Int] = [:]
    /// Why other ranks take no new tokens, as the coordinator says.
    var otherRefusals: [ServiceError] = []
    var uses: UseLog
    var evicted = EvictedSequences()
    /// Bytes of keys and values that are being read back for clients.
    var rowsInFlightByteCount = 0
    /// The verification that runs, or the last one.
    var verification: VerificationRun?
    /// This rank's hello.
    let hello: Hello
    let peers: PeerLinks
    let port: GroupPort
    private(set) var coordinator: CoordinatorSession!
    let listener: Listener
    let hostReporter: HostReporter
    let copies: StoreCopies
    /// Every open link of a client, with its place in the order they came, for a clean stop.
    var incoming: [ObjectIdentifier: (ordinal: UInt64, link: Link)] = [:]
    var nextIncoming: UInt64 = 0
    /// Done when no step and no commit is in flight; nil until the rank is told to stop.
    var drained: EventLoopPromise<Void>?
    var hasDrained = false
    /// Done when the last link is closed after the drain.
    let allClosed: EventLoopPromise<Void>
    var earlyTimer: RepeatedTask?
    var quietWaiters: [QuietWaiter] = []
    /// When idle sequences last gave up what they have in RAM.
    var lastRelease = NIODeadline.uptimeNanoseconds(0)
    /// When a canary's decode step last went through this rank.
    var lastCanary: NIODeadline?

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
        allClosed = eventLoop.makePromise()
        uses = UseLog(cache.heldSequences.sorted { $0.lastChange < $1.lastChange }.lazy.map(\.id))
        steps = StepTable(earlyByteCountMax: configuration.earlyByteCountMax)
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
        earlyTimer = eventLoop.scheduleRepeatedTask(initialDelay: .seconds(1), delay: .seconds(1)) { _ in
            let server = bound.value
            server.steps.expireEarly(now: server.eventLoop.now)
            server.recentContexts.expire(at: server.eventLoop.now)
            server.endAbandonedClaims()
            server.releaseIdleMemory()
        }
        return listener.start(delegate: self).map {
            let server = bound.value
            server.observe(.listening("\(server.listener.endpoint)"))
            server.observeStore()
            server.coordinator.start(advertising: server.configuration.advertise ?? server.listener.endpoint)
        }
    }

    /// Sequences not used since the last run are dropped, after one to two periods.
    private func releaseIdleMemory() {
        guard let period = configuration.memoryIdle, eventLoop.now >= lastRelease + period else { return }
        lastRelease = eventLoop.now
        cache.releaseIdle()
    }

    deinit { allClosed.succeed() }

    /// Lets go of steps and links without telling anybody, as the death of the process would: for simulations, in which
    /// the process lives on. Nothing may be asked of the server after it.
    package func abandon() {
        earlyTimer?.cancel()
        for execution in steps.inOrder({ _ in true }) { steps.remove(execution.tag) }
        incoming = [:]
        quietWaiters = []
        loopWork.abandon()
        pool.abandon()
        drained?.fail(ServiceError(.shuttingDown, "The process has ended."))
        peers.abandon()
        coordinator.abandon()
        copies.endAll()
        coordinator = nil
    }

    // MARK: Called by executions

    func finished(_ execution: StepExecution) {
        guard steps[execution.tag] === execution else { return }
        steps.remove(execution.tag)
        stepByteCount -= execution.byteCount
        runQuietWaiters()
        finishDrainIfEmpty()
    }

    /// Answers a client; one that is gone needs no answer.
    func answer(_ client: Link?, _ tag: Tag, _ message: Message) {
        guard let client else { return }
        var message = message
        if case .failure(var error) = message {
            if error.rank == nil { error.rank = configuration.rank }
            message = .failure(error)
        }
        do throws(ServiceError) {
            try client.send(
                Frame(epoch: coordinator.epoch, tag: tag, sender: configuration.rank, message: message))
        } catch {
            switch error.code {
            // A client that does not read would wait for an answer that cannot be sent: it hears of it this way.
            case .overloaded: client.close(error)
            case .invalidRequest: answer(client, tag, .failure(error))
            default: break
            }
        }
    }

    /// Of the connections that came to this rank, on its loop.
    public var refusedConnections: RefusedConnections { listener.refused }

    var traffic: (received: UInt64, sent: UInt64) {
        let links = incoming.values.map(\.link) + peers.links.filter { incoming[ObjectIdentifier($0)] == nil }
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
