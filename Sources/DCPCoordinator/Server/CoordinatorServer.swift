// SPDX-License-Identifier: Apache-2.0

public import DCPCore
public import DCPTransport
public import DCPWire
public import NIOCore

/// The coordinator: a shell around `CoordinatorMachine`, confined to one event loop.
///
/// Actions are executed in order, and those after a `persist` wait until the writer thread has synced it
/// (`ActionQueue`); events that arrive meanwhile change the machine, and their actions are queued.
public final class CoordinatorServer {
    public struct Configuration: Sendable {
        public var listen: Endpoint
        /// An already listening socket that belongs to its passer; nil binds one at `listen`.
        public var inheritedSocket: CInt?
        /// How long a rank may stay silent before it counts as lost.
        public var lease: Duration = .seconds(5)
        /// Confirmed losses of ranks' stores.
        public var losses: Set<RankLoss> = []
        /// Whether to rebuild the directory from the ranks' stores, once.
        public var adoptsRanks = false
        /// Ranks whose stores are lost: empty ones are accepted, and the others' stores count.
        public var adoptsWithout: Set<RankIndex> = []
        /// The distance of that epoch from the highest that ranks have seen.
        public var adoptionMargin = UInt64.random(in: 1000...1_000_000)
        /// How long ranks keep sequences that are not in the directory.
        public var unknownGrace: Duration = .seconds(3600)
        public var evict = EvictionPolicy.off
        /// With `lru`, the time without use after which a sequence may be evicted. Uses are reported with the leases,
        /// so at least a lease.
        public var evictIdle: Duration = .seconds(10)
        /// Maximum number of operations in flight per rank: fewer than its store's write queue takes.
        public var operationWindow = 256
        public var link = LinkSettings()
        /// Sequences that a turn of the loop compares in a join.
        package var joinPieceCount = Reconciliation.pieceCount
        /// Runs reads of a held store; by default on NIO's threads.
        package var copyWork: StoreCopies.DiskWork?
        /// Inspects the host for host reports. Called on a separate thread, may block; nil without a host.
        public var hostReport: (@Sendable () -> HostReport)?

        public init(listen: Endpoint) { self.listen = listen }
    }

    private let shape: ClusterShape
    private let store: CoordinatorStore
    let eventLoop: any EventLoop
    private let observer: (CoordinatorEvent) -> Void
    private let listener: Listener
    let tls: TLSCredentials?
    let hostReporter: HostReporter
    let copies: StoreCopies
    var machine: CoordinatorMachine
    private(set) var counters = CoordinatorCounters()
    private(set) var links: [CoordinatorMachine.LinkID: Link] = [:]
    private var linkIDs: [ObjectIdentifier: CoordinatorMachine.LinkID] = [:]
    private var nextLink: UInt64 = 1
    private var actions = ActionQueue()
    private var isPerforming = false
    /// Set while the disk of the state has no room: changes wait, and what clients ask for is refused with this.
    private var refusal: ServiceError?
    private static let tickPeriod = TimeAmount.milliseconds(50)
    private var ticker: RepeatedTask?
    private var lastTick: NIODeadline
    private var wasLate = false
    private var isStopped = false
    private let started: NIODeadline

    /// - Parameter observe: called on the loop.
    public init(
        _ configuration: Configuration, store: CoordinatorStore, eventLoop: any EventLoop,
        observe: @escaping (CoordinatorEvent) -> Void
    ) {
        shape = store.initialState.shape
        self.store = store
        self.eventLoop = eventLoop
        (started, lastTick) = (eventLoop.now, eventLoop.now)
        observer = observe
        listener = Listener(
            configuration.listen, as: .coordinator, inheritedSocket: configuration.inheritedSocket,
            eventLoop: eventLoop,
            settings: configuration.link)
        tls = configuration.link.tls
        hostReporter = HostReporter(configuration.hostReport, eventLoop: eventLoop)
        copies = StoreCopies(eventLoop: eventLoop, diskWork: configuration.copyWork)
        machine = CoordinatorMachine(
            state: store.initialState, lease: configuration.lease, unknownGrace: configuration.unknownGrace,
            losses: configuration.losses, adoptsRanks: configuration.adoptsRanks,
            adoptsWithout: configuration.adoptsWithout, adoptionMargin: configuration.adoptionMargin,
            evict: configuration.evict, evictIdle: configuration.evictIdle,
            operationWindow: configuration.operationWindow)
        machine.joinPieceCount = configuration.joinPieceCount
    }

    /// Listens. The future fails when the endpoint cannot be bound.
    public func start() -> EventLoopFuture<Void> {
        eventLoop.preconditionInEventLoop()
        let bound = NIOLoopBound(self, eventLoop: eventLoop)
        ticker = eventLoop.scheduleRepeatedTask(initialDelay: Self.tickPeriod, delay: Self.tickPeriod) { _ in
            bound.value.tick()
        }
        return listener.start(delegate: self).map {
            bound.value.observe(.listening("\(bound.value.listener.endpoint)"))
        }
    }

    private func tick() {
        // After a long turn links are read before the next tick: that one is not late, however long it takes.
        let isLate = !wasLate && eventLoop.now - lastTick > Self.tickPeriod * 4
        (lastTick, wasLate) = (eventLoop.now, isLate)
        perform(machine.tick(now: now, isLate: isLate, recordsMarks: refusal == nil))
    }

    /// Stops and closes links; persisted changes stay. Ranks keep serving.
    public func stop() {
        eventLoop.preconditionInEventLoop()
        isStopped = true
        ticker?.cancel()
        listener.stop()
        copies.endAll()
        // From here on no rank counts as lost: otherwise a rank with an open link would be told that the others are
        // missing, and stop serving.
        linkIDs = [:]
        for (_, link) in links.sorted(by: { $0.key.value < $1.key.value }) {
            link.closeWhenFlushed(ServiceError(.shuttingDown, "The coordinator has stopped; try again later."))
        }
    }

    /// Drops links and timers without notice, like the death of the process: for simulations, in which the process
    /// lives on. The server must not be used afterwards.
    package func abandon() {
        isStopped = true
        ticker?.cancel()
        copies.endAll()
        links = [:]
        linkIDs = [:]
    }

    /// Where it listens, with the port the system chose when 0 was asked for.
    public var endpoint: Endpoint { listener.endpoint }

    /// Its contents, for a status line.
    public var summary: (epoch: Epoch, models: Int, sequences: Int, reason: String) {
        (machine.state.epoch, machine.state.models.count, machine.state.sequences.count, machine.reason)
    }

    /// What the configuration gives up from now on.
    public func configure(_ losses: Set<RankLoss>) { machine.configuredLosses = losses }

    private func observe(_ event: CoordinatorEvent) {
        counters.count(event)
        observer(event)
    }

    /// Of the connections that came here, on its loop.
    public var refusedConnections: RefusedConnections { listener.refused }

    var now: Duration { .nanoseconds((eventLoop.now - started).nanoseconds) }

    func perform(_ new: [CoordinatorMachine.Action]) {
        actions.add(new)
        // An action may close a link, which calls back here immediately: the resulting actions wait for those before
        // them.
        guard !isPerforming else { return }
        isPerforming = true
        while let action = actions.next() {
            switch action {
            case .persist(let changes): persist(changes)
            case .send(let message, let number, let id):
                send(message, Tag(client: ClientID(0), number: number), to: id)
            case .answer(let message, let tag, let id): send(message, tag, to: id, isAnswer: true)
            case .close(let id, let error): links[id]?.close(error)
            case .hold(let number): hold(number)
            case .goOn: goOn()
            case .report(let event): observe(event)
            }
        }
        isPerforming = false
    }

    private func goOn() {
        let bound = NIOLoopBound(self, eventLoop: eventLoop)
        eventLoop.nextTurn {
            let server = bound.value
            guard !server.isStopped else { return }
            server.perform(server.machine.goOn(now: server.now))
        }
    }

    var isPersisting: Bool { actions.isPersisting }

    private func persist(_ changes: [StateChange]) {
        let bound = NIOLoopBound(self, eventLoop: eventLoop)
        let (store, eventLoop) = (store, eventLoop)
        store.persist(changes) { result in
            let isRefused = store.isRefused
            eventLoop.execute {
                let server = bound.value
                switch result {
                case .success:
                    FailPoint.coordinatorPersisted.pass()
                    if server.refusal != nil {
                        server.refusal = nil
                        server.observe(.diskHasRoom)
                    }
                    server.actions.persisted()
                    server.perform([])
                case .failure(let error) where isRefused: server.wait(for: changes, error)
                case .failure(let error):
                    // Changes cannot be persisted: nothing more is answered, and the daemon exits.
                    server.observe(.fatal(error))
                }
            }
        }
    }

    /// The disk refuses changes, most likely because it is full. An exit would not give it room, and each start begins a
    /// new epoch: they are tried again, and all that depends on them waits.
    private func wait(for changes: [StateChange], _ error: ServiceError) {
        if refusal == nil {
            let refusal = ServiceError(
                .storeFull,
                "The disk of the coordinator's state is full or refuses writes, so nothing is recorded: free space on it; "
                    + "the coordinator tries again every second. (\(error.message))")
            self.refusal = refusal
            observe(.diskFull(refusal))
        }
        let bound = NIOLoopBound(self, eventLoop: eventLoop)
        eventLoop.scheduleTask(in: .seconds(1)) {
            if !bound.value.isStopped { bound.value.persist(changes) }
        }
    }

    /// Everything before it in the order of actions is on the disk.
    private func hold(_ number: UInt64) {
        do throws(ServiceError) {
            try copies.hold(number) { () throws(ServiceError) in try store.copy() }
        } catch {
            perform(machine.endCopying(error))
        }
    }

    func id(of link: Link?) -> CoordinatorMachine.LinkID? { link.flatMap { linkIDs[ObjectIdentifier($0)] } }

    private func send(_ message: Message, _ tag: Tag, to id: CoordinatorMachine.LinkID, isAnswer: Bool = false) {
        guard let link = links[id] else { return }
        do throws(ServiceError) {
            try link.send(Frame(epoch: machine.state.epoch, tag: tag, message: message))
        } catch {
            // An answer that is larger than a frame: the client hears of it, and its connection stays.
            guard isAnswer, error.code == .invalidRequest else { return link.close(error) }
            send(.failure(error), tag, to: id)
        }
    }
}

extension CoordinatorServer: LinkDelegate {
    package func link(_ link: Link, accepts hello: Hello) throws(ServiceError) -> Hello {
        try hello.check(against: LayoutFingerprint(shape))
        return Hello(role: .coordinator, fingerprint: LayoutFingerprint(shape))
    }

    package func link(_ link: Link, opened peer: Hello) {
        let id = CoordinatorMachine.LinkID(nextLink)
        nextLink += 1
        links[id] = link
        linkIDs[ObjectIdentifier(link)] = id
    }

    package func link(_ link: Link, received frame: Frame) {
        guard let id = linkIDs[ObjectIdentifier(link)] else { return }
        let isRank = link.peer?.role == .rank
        switch frame.message {
        case .register(let registration) where isRank && registration.rank == link.peer?.rank:
            perform(machine.registered(registration, link: id, now: now))
        case .heldSequences(let page) where isRank:
            perform(machine.heldSequences(id, epoch: frame.epoch, number: frame.tag.number, page, now: now))
        case .renewLease(let renewal) where isRank: perform(machine.renewed(id, renewal, now: now))
        case .victims(let sequences) where isRank:
            perform(machine.victims(id, number: frame.tag.number, sequences, now: now))
        case .matched(let found) where isRank:
            perform(machine.matched(id, number: frame.tag.number, found.first, now: now))
        case .lengths(let lengths) where isRank:
            perform(machine.lengths(id, number: frame.tag.number, lengths, now: now))
        case .records(let records) where isRank:
            perform(machine.records(id, number: frame.tag.number, records))
        case .copyHeld where isRank: perform(machine.copyHeld(id, number: frame.tag.number))
        case .linksReady where isRank: perform(machine.linksReady(id, epoch: frame.epoch, now: now))
        case .operationDone where isRank: perform(machine.operationDone(id, number: frame.tag.number))
        case .failure(let error) where isRank:
            perform(machine.operationFailed(id, number: frame.tag.number, error))
        case .request(let body) where !isRank:
            // Every answer would wait for the changes before it: clients would hear of it after their deadlines, and
            // requests would pile up.
            if let refusal { return send(.failure(refusal), frame.tag, to: id) }
            do throws(ServiceError) {
                try Self.requests.handle(body, of: frame, from: link, by: self)
            } catch {
                let cause = error.code == .accessDenied ? RefusalCause.missingRight : .protocolViolation
                observe(.refused(peer: link.remoteAddress, cause, error))
                send(.failure(error), frame.tag, to: id)
            }
        default:
            let error = ServiceError(
                .protocolViolation,
                "\(link.peer?.sender ?? "A peer") sent a \(frame.message.type) frame, which the coordinator does not "
                    + "accept from it.")
            observe(.refused(peer: link.remoteAddress, .protocolViolation, error))
            link.close(error)
        }
    }

    package func link(_ link: Link, closed error: ServiceError) {
        if let cause = link.refusal { observe(.refused(peer: link.remoteAddress, cause, error)) }
        guard let id = linkIDs.removeValue(forKey: ObjectIdentifier(link)) else { return }
        links[id] = nil
        perform(machine.linkClosed(id, reason: error))
    }
}
