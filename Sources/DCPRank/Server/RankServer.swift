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
    /// Sequences that an operation of the coordinator is changing: no step is taken for them.
    var changing: Set<SequenceID> = []
    /// Bytes that the steps in flight hold.
    var stepByteCount = 0
    var commitsInFlight = 0
    let peers: PeerLinks
    private(set) var coordinator: CoordinatorSession!
    private let listener: Listener
    /// Every open incoming link, for a clean stop.
    private var incoming: [ObjectIdentifier: Link] = [:]
    private var drained: EventLoopPromise<Void>?
    private var hasDrained = false
    private let allClosed: EventLoopPromise<Void>
    private var earlyTimer: RepeatedTask?
    private var quietWaiters: [QuietWaiter] = []

    /// Work that must not overlap the steps of some sequences.
    private struct QuietWaiter {
        var isQuiet: (StepTable) -> Bool
        var body: () -> Void
    }

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
        allClosed = eventLoop.makePromise()
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
        // The last answers are written before the daemon ends; a peer that does not read them is not waited for long.
        let closed = allClosed.futureResult
        let flushDeadline = configuration.link.handshakeTimeout
        return promise.futureResult.flatMap {
            let server = bound.value
            let giveUp = server.eventLoop.scheduleTask(in: flushDeadline) { bound.value.allClosed.succeed() }
            return closed.always { _ in giveUp.cancel() }
        }
    }

    private func abandonSteps() {
        let error = ServiceError(
            .shuttingDown, "\(configuration.rank) stopped before the step ended; try again later.")
        for execution in steps.executions.values { execution.deliver(.failed(error)) }
        drained?.succeed()
    }

    func finishDrainIfEmpty() {
        guard steps.executions.isEmpty, commitsInFlight == 0 else { return }
        drained?.succeed()
    }

    private func closeLinks() {
        hasDrained = true
        earlyTimer?.cancel()
        coordinator.stop()
        peers.stop()
        for link in incoming.values {
            link.closeWhenFlushed(ServiceError(.shuttingDown, "\(configuration.rank) has stopped."))
        }
        finishCloseIfEmpty()
    }

    private func finishCloseIfEmpty() {
        guard incoming.isEmpty, peers.links.isEmpty else { return }
        allClosed.succeed()
    }

    deinit { allClosed.succeed() }

    // MARK: Called by executions

    func finished(_ execution: StepExecution) {
        guard steps[execution.tag] === execution else { return }
        steps.remove(execution.tag)
        stepByteCount -= execution.byteCount
        let ready = quietWaiters.filter { $0.isQuiet(steps) }
        if !ready.isEmpty {
            quietWaiters.removeAll { $0.isQuiet(steps) }
            for waiter in ready { waiter.body() }
        }
        finishDrainIfEmpty()
    }

    /// Runs a body when no step touches a sequence any more, its computations included; at once when none does.
    ///
    /// An aborted step's append may still run on a compute thread, and is taken back when it ends. Whoever changes or
    /// reads lengths in between would see tokens that are about to vanish, and ranks would disagree.
    func whenQuiet(_ sequence: SequenceID, _ body: @escaping () -> Void) {
        wait(for: { steps in !steps.executions.values.contains { $0.touches(sequence) } }, body)
    }

    /// Runs a body when no step is left, computations included.
    func whenAllQuiet(_ body: @escaping () -> Void) { wait(for: { $0.executions.isEmpty }, body) }

    /// Runs a body when no aborted step of some sequences is still being taken back.
    func whenRolledBack(_ sequences: [SequenceID], _ body: @escaping () -> Void) {
        wait(
            for: { steps in
                !steps.executions.values.contains { execution in
                    execution.machine.isOver && sequences.contains { execution.touches($0) }
                }
            }, body)
    }

    private func wait(for isQuiet: @escaping (StepTable) -> Bool, _ body: @escaping () -> Void) {
        if isQuiet(steps) {
            body()
        } else {
            quietWaiters.append(QuietWaiter(isQuiet: isQuiet, body: body))
        }
    }

    /// Whether there is room for what a step will hold: its tensors, everybody's queries and the partials in Float32.
    /// - Throws: `.overloaded` over the budget, `.invalidRequest` for an answer that no frame could hold.
    func checkRoom(for request: StepRequest, _ plan: StepPlan) throws(ServiceError) {
        let resultByteCount = plan.ownHeads.count * plan.tokens * (plan.shape.valueDim + 1) * 4
        let limit = configuration.link.frameLimits.payloadByteCountMax
        guard resultByteCount <= limit else {
            throw ServiceError(
                .invalidRequest,
                "The answer to \(plan.tokens) tokens would take \(resultByteCount) bytes, the limit of a frame is "
                    + "\(limit); send fewer tokens in one step (dcpctl submit --chunk).")
        }
        let byteCount = StepExecution.byteCount(of: request, plan)
        guard stepByteCount == 0 || stepByteCount + byteCount <= configuration.stepByteCountMax else {
            throw ServiceError(
                .overloaded,
                "The steps in flight hold \(stepByteCount) bytes, this one needs \(byteCount) and the limit is "
                    + "\(configuration.stepByteCountMax); try again when some have ended.")
        }
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
        } catch {
            switch error.code {
            // A client that does not read would wait for an answer that cannot be sent: it hears of it this way.
            case .overloaded: client.close(error)
            case .invalidRequest: answer(client, tag, .failure(error))
            default: break
            }
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
                // A step whose append failed or never began has nothing in the cache.
                if let state = cache.state(of: entry.sequence), state.layerLengths[layer] > entry.position {
                    try cache.rewind(sequence: entry.sequence, layer: layer, length: entry.position)
                }
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

    /// A step with nothing to exchange does not need its peers.
    private func abortExchanges(_ error: ServiceError) {
        for execution in steps.executions.values where execution.machine.plan.hasContext {
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
        let replaced = peers.link(to: rank) != nil
        guard peers.opened(link, rank: rank) else {
            let error = ServiceError(
                .protocolViolation,
                "\(rank) is not of the head group of \(configuration.rank); it has no business here.")
            link.close(error)
            return
        }
        observe(.peerConnected(rank))
        if replaced {
            abortExchanges(
                ServiceError(
                    .rankUnavailable,
                    "\(rank) connected to \(configuration.rank) again while the step was in flight; try again.",
                    rank: rank))
        }
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
            abortExchanges(lost)
        }
        for execution in steps.executions.values where execution.isClient(link) {
            execution.deliver(.failed(ServiceError(.stepAborted, "The client closed its connection.")))
        }
        if hasDrained { finishCloseIfEmpty() }
    }

    private func receive(_ frame: Frame, from rank: RankIndex, over link: Link) {
        switch frame.message {
        case .query, .partial, .logSumExp, .corrected, .abort: break
        case .failure(let error):
            // Why it is about to close the link.
            link.close(error)
            return
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
            steps.refuse(frame.tag, error)
            abortInGroup(frame.tag, error)
        }
    }

    /// Tells the group the verdict on a step that is none here. A peer that cannot be told has lost its link, which
    /// fails its steps.
    func abortInGroup(_ tag: Tag, _ verdict: ServiceError) {
        for peer in peers.links {
            do throws(ServiceError) {
                try peer.send(
                    Frame(epoch: coordinator.epoch, tag: tag, sender: configuration.rank, message: .abort(verdict)))
            } catch {
                peer.close(error)
            }
        }
    }
}
