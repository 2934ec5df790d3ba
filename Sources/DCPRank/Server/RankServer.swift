internal import DCPAttention
public import DCPCache
public import DCPCore
package import DCPTransport
package import DCPWire
internal import Glibc
public import NIOCore

/// One rank: it serves steps, commits and questions of clients, exchanges with its head group, and obeys the
/// coordinator.
///
/// DESIGN: everything here is confined to one event loop, without locks. Frames come in on the loop, go through
/// values (`StepMachine`, `LayerCursors`, `StepTable`) and leave as frames or as jobs; compute threads and the store's
/// writer thread do what takes time and come back to the loop. So messages of one link are handled in the order they
/// were sent, and nothing ever waits on the loop.
public final class RankServer {
    let configuration: RankConfiguration
    let cluster: ClusterShape
    let cache: ShardCache
    let pool: ComputePool
    let eventLoop: any EventLoop
    let observe: (RankEvent) -> Void

    var counters = Counters()
    var steps: StepTable
    var cursors = LayerCursors()
    let peers: PeerLinks
    private(set) var coordinator: CoordinatorSession!
    private let listener: Listener
    /// Every open incoming link, for a clean stop.
    private var incoming: [ObjectIdentifier: Link] = [:]
    private var drained: EventLoopPromise<Void>?
    /// What waits until no step of a sequence is left.
    private var idleWaiters: [(sequence: SequenceID, body: () -> Void)] = []
    private var earlyTimer: RepeatedTask?

    struct Counters {
        var stepsCompleted: UInt64 = 0
        var stepsAborted: UInt64 = 0
        var framesRefused: UInt64 = 0
        /// Of links that are closed; open ones are added when asked.
        var receivedByteCount: UInt64 = 0
        var sentByteCount: UInt64 = 0
    }

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
        self.eventLoop = eventLoop
        self.observe = observe
        steps = StepTable(earlyByteCountMax: configuration.earlyByteCountMax)
        let dialer = Dialer(eventLoop: eventLoop, settings: configuration.link)
        let hello = Hello(role: .rank, rank: configuration.rank, fingerprint: LayoutFingerprint(cluster))
        peers = PeerLinks(
            own: configuration.rank,
            group: cluster.members(ofHeadGroup: cluster.headGroup(of: configuration.rank)), hello: hello,
            dialer: dialer, eventLoop: eventLoop, redialDelay: configuration.redialDelay)
        listener = Listener(configuration.listen, eventLoop: eventLoop, settings: configuration.link)
        coordinator = CoordinatorSession(server: self, hello: hello, dialer: dialer)
    }

    /// Listens, then registers. The future fails when the endpoint cannot be bound.
    public func start() -> EventLoopFuture<Void> {
        eventLoop.preconditionInEventLoop()
        let bound = NIOLoopBound(self, eventLoop: eventLoop)
        earlyTimer = eventLoop.scheduleRepeatedTask(initialDelay: .seconds(1), delay: .seconds(1)) { _ in
            bound.value.steps.expireEarly(now: .now())
        }
        return listener.start(delegate: self).map {
            let server = bound.value
            server.observe(.listening("\(server.listener.endpoint)"))
            server.coordinator.start(advertising: server.configuration.advertise ?? server.listener.endpoint)
        }
    }

    /// Stops cleanly: refuses new steps, lets those in flight end within the drain timeout, closes all links.
    /// The store is the caller's to close afterwards.
    public func stop() -> EventLoopFuture<Void> {
        eventLoop.preconditionInEventLoop()
        if let drained { return drained.futureResult }
        let promise = eventLoop.makePromise(of: Void.self)
        drained = promise
        listener.stop()
        coordinator.refuseSteps(ServiceError(.shuttingDown, "\(configuration.rank) is stopping; try again later."))
        let bound = NIOLoopBound(self, eventLoop: eventLoop)
        let deadline = eventLoop.scheduleTask(in: configuration.drainTimeout) { bound.value.abandonSteps() }
        promise.futureResult.whenComplete { _ in
            deadline.cancel()
            bound.value.closeLinks()
        }
        finishDrainIfEmpty()
        return promise.futureResult
    }

    private func abandonSteps() {
        let error = ServiceError(
            .shuttingDown, "\(configuration.rank) stopped before the step ended; try again later.")
        for execution in steps.executions.values { execution.deliver(.failed(error)) }
        drained?.succeed()
    }

    private func finishDrainIfEmpty() {
        guard steps.executions.isEmpty else { return }
        drained?.succeed()
    }

    private func closeLinks() {
        earlyTimer?.cancel()
        coordinator.stop()
        peers.stop()
        for link in incoming.values {
            link.close(ServiceError(.shuttingDown, "\(configuration.rank) has stopped."))
        }
    }

    // MARK: Called by executions

    func finished(_ execution: StepExecution) {
        guard steps[execution.tag] === execution else { return }
        steps.remove(execution.tag)
        runIdleWaiters()
        finishDrainIfEmpty()
    }

    /// Runs a body when no step of the sequence is left, at once when there is none.
    func whenIdle(_ sequence: SequenceID, _ body: @escaping () -> Void) {
        idleWaiters.append((sequence, body))
        runIdleWaiters()
    }

    private func runIdleWaiters() {
        guard !idleWaiters.isEmpty else { return }
        func isIdle(_ sequence: SequenceID) -> Bool {
            steps.executions.values.allSatisfy { !$0.touches(sequence) }
        }
        let due = idleWaiters.filter { isIdle($0.sequence) }
        idleWaiters.removeAll { isIdle($0.sequence) }
        for waiter in due { waiter.body() }
    }

    /// Sends to another rank of the step's group.
    func send(_ message: Message, to member: Int, of execution: StepExecution) throws(ServiceError) {
        let rank = cluster.rank(headGroup: cluster.headGroup(of: configuration.rank), contextRank: member)
        guard let link = peers.link(to: rank) else {
            throw ServiceError(
                .rankUnavailable, "\(configuration.rank) has no connection to \(rank); try again when it is back.",
                rank: rank)
        }
        try link.send(
            Frame(epoch: execution.epoch, tag: execution.tag, sender: configuration.rank, message: message))
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
        } catch where error.code == .overloaded {
            // The client does not read. It would wait for an answer that cannot be sent, so it hears of it this way.
            client.close(error)
        } catch {
            return
        }
    }

    /// Tokens of a step are in the cache: steps behind it may go on.
    func appended(_ entries: [StepRequest.Entry], layer: Int) {
        for entry in entries { cursors.appended(entry, layer: layer) }
        for execution in steps.executions.values
        where Int(execution.tag.layer) == layer && isContextReady(execution.request.entries, layer: layer) {
            execution.deliver(.contextReady)
        }
    }

    func isContextReady(_ entries: [StepRequest.Entry], layer: Int) -> Bool {
        entries.allSatisfy { cursors.isContextReady($0, layer: layer) }
    }

    /// Takes an aborted step's tokens back, and with them the steps that were built on them.
    func rollBack(_ entries: [StepRequest.Entry], layer: Int) {
        for entry in entries {
            do throws(ServiceError) {
                try cache.rewind(sequence: entry.sequence, layer: layer, length: entry.position)
            } catch {
                // The sequence was closed or truncated meanwhile: the tokens are gone with what they were part of.
                cursors.forget(entry.sequence)
            }
            cursors.rolledBack(entry, layer: layer)
            let error = ServiceError(
                .stepAborted,
                "The step builds on tokens from position \(entry.position) of \(entry.sequence), which were aborted; "
                    + "send them again.")
            for execution in steps.executions.values
            where Int(execution.tag.layer) == layer
                && execution.request.entries.contains(where: {
                    $0.sequence == entry.sequence && $0.position > entry.position
                })
            {
                execution.deliver(.failed(error))
            }
        }
    }

    /// Ends every step that touches a sequence, before something else changes it.
    func abortSteps(on sequence: SequenceID, _ error: ServiceError) {
        for execution in steps.executions.values where execution.touches(sequence) {
            execution.deliver(.failed(error))
        }
    }

    func abortAllSteps(_ error: ServiceError) {
        for execution in steps.executions.values { execution.deliver(.failed(error)) }
    }

    var traffic: (received: UInt64, sent: UInt64) {
        let links = Array(incoming.values) + peers.links.filter { incoming[ObjectIdentifier($0)] == nil }
        return links.reduce((counters.receivedByteCount, counters.sentByteCount)) {
            ($0.0 + $1.receivedByteCount, $0.1 + $1.sentByteCount)
        }
    }

    var processID: UInt32 { UInt32(getpid()) }
}

// MARK: - Links

extension RankServer: LinkDelegate {
    package func link(_ link: Link, accepts hello: Hello) throws(ServiceError) -> Hello {
        try hello.check(against: LayoutFingerprint(cluster))
        if case .coordinator = hello.role {
            throw ServiceError(.protocolViolation, "The coordinator does not dial ranks; ranks dial it.")
        }
        return Hello(role: .rank, rank: configuration.rank, fingerprint: LayoutFingerprint(cluster))
    }

    package func link(_ link: Link, opened peer: Hello) {
        guard let rank = peer.rank else {
            incoming[ObjectIdentifier(link)] = link
            return
        }
        guard peers.opened(link, rank: rank) else {
            let error = ServiceError(
                .protocolViolation, "\(rank) is not of the head group of \(configuration.rank); it has no business here.")
            link.close(error)
            return
        }
        observe(.peerConnected(rank))
        coordinator.linksChanged()
    }

    package func link(_ link: Link, received frame: Frame) {
        if let rank = link.peer?.rank {
            receive(frame, from: rank, over: link)
        } else {
            receive(frame, fromClient: link)
        }
    }

    package func link(_ link: Link, closed error: ServiceError) {
        incoming[ObjectIdentifier(link)] = nil
        counters.receivedByteCount += link.receivedByteCount
        counters.sentByteCount += link.sentByteCount
        if link.wasRefused {
            counters.framesRefused += 1
            observe(.refused(peer: link.remoteAddress, error))
        }
        if let rank = peers.closed(link) {
            observe(.peerLost(rank, error))
            let lost = ServiceError(
                .rankUnavailable,
                "\(configuration.rank) lost its connection to \(rank): \(error.message) Try again when \(rank) is back.",
                rank: rank)
            // A step with nothing to exchange does not need its peers.
            for execution in steps.executions.values where execution.machine.plan.hasContext {
                execution.deliver(.failed(lost))
            }
        }
        for execution in steps.executions.values where execution.isClient(link) {
            execution.deliver(.failed(ServiceError(.stepAborted, "The client closed its connection.")))
        }
    }

    private func receive(_ frame: Frame, from rank: RankIndex, over link: Link) {
        switch frame.message {
        case .query, .partial, .logSumExp, .corrected, .abort: break
        default:
            link.close(
                ServiceError(.protocolViolation, "\(rank) sent a \(frame.message.type) frame, which no rank sends."))
            return
        }
        guard frame.sender == rank else {
            link.close(ServiceError(.protocolViolation, "\(rank) sent a frame in another rank's name."))
            return
        }
        // A frame of another epoch belongs to a step that one side has given up already.
        guard frame.epoch == coordinator.epoch else { return }
        let member = cluster.contextRank(of: rank)
        if let execution = steps[frame.tag] {
            execution.receive(frame.message, from: member)
        } else if !steps.keep(frame, from: member, until: .now() + configuration.stepTimeoutMax) {
            let error = ServiceError(
                .overloaded,
                "\(configuration.rank) holds \(configuration.earlyByteCountMax) bytes of messages for steps that have "
                    + "not come; send fewer steps at once.", rank: configuration.rank)
            try? link.send(
                Frame(epoch: frame.epoch, tag: frame.tag, sender: configuration.rank, message: .abort(error)))
            steps.refuse(frame.tag)
        }
    }
}
