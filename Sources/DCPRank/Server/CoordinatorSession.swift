// SPDX-License-Identifier: Apache-2.0

internal import DCPCache
internal import DCPCore
internal import DCPTransport
internal import DCPWire
internal import NIOCore

/// A rank's side of the membership: it registers, keeps its lease, follows the topology and carries out operations.
///
/// `unregistered < joining(e) < ready(e) < notReady`, then `joining(e + 1)`. When the coordinator is gone the rank
/// keeps serving the epoch it holds, and dials again.
final class CoordinatorSession {
    unowned let server: RankServer
    private let hello: Hello
    private let dialer: Dialer
    private var link: Link?
    private var endpoint: Endpoint?
    private var serving: Serving = .refusing(
        ServiceError(.notReady, "This rank has not joined the cluster yet; try again."))
    private(set) var epoch: Epoch
    /// Whether this process has registered in an epoch with what it holds.
    private var hasRegistered = false
    /// Whether an epoch has been ready since this process started.
    private var wasReady = false
    /// Why other ranks take no new tokens, as the coordinator says; none without a coordinator.
    private(set) var otherRefusals: [ServiceError] = []
    private var topology: Topology?
    private var hasSentLinksReady = false
    private var renewal: RepeatedTask?
    private var lastRenewed: NIODeadline
    /// What the coordinator has not been told yet in this epoch.
    private var heldPages: HeldPages?
    private var isStopped = false
    private var isDraining = false
    private var isDialling = false
    private var hasReportedLoss = false
    /// Whether the coordinator has answered on this link: one that refuses the registration closes it.
    private var isHeard = false

    private enum Serving {
        case yes
        case refusing(ServiceError)
    }

    init(server: RankServer, hello: Hello, dialer: Dialer) {
        self.server = server
        self.hello = hello
        self.dialer = dialer
        epoch = server.cache.highestEpoch
        lastRenewed = server.eventLoop.now
    }

    func start(advertising endpoint: Endpoint) {
        self.endpoint = endpoint
        dial()
    }

    func stop() {
        isStopped = true
        renewal?.cancel()
        link?.close(ServiceError(.shuttingDown, "\(server.configuration.rank) is stopping."))
    }

    var isConnected: Bool { link != nil }

    /// Whether this rank holds all that a client of an epoch may ask for. Before the first join since its start is over
    /// its store may lack what the others have, and what the join gives it. A client sends in no epoch that is not
    /// ready, but may have heard of that before this rank.
    func hasJoined(for epoch: Epoch) -> Bool { wasReady || hasRegistered && epoch == self.epoch }

    /// Whether what the coordinator asks is what this rank owes since before the epoch.
    var isJoining: Bool { topology?.phase == .joining }

    /// See `RankServer.abandon`.
    func abandon() {
        isStopped = true
        renewal?.cancel()
        link = nil
    }

    func checkServing() throws(ServiceError) {
        if case .refusing(let error) = serving { throw error }
    }

    /// For good: the daemon drains, whatever the coordinator says from now on.
    func refuseSteps(_ error: ServiceError) {
        serving = .refusing(error)
        isDraining = true
    }

    /// A link to a peer came up: perhaps it was the last that the epoch waits for.
    func linksChanged() {
        guard let topology, topology.phase == .joining, topology.epoch == epoch, !hasSentLinksReady,
            server.peers.isComplete
        else { return }
        hasSentLinksReady = true
        send(.linksReady)
    }

    // MARK: The connection

    private func dial() {
        guard !isStopped, link == nil, !isDialling else { return }
        isDialling = true
        let bound = NIOLoopBound(self, eventLoop: server.eventLoop)
        dialer.dial(
            server.configuration.coordinator, expecting: .coordinator, hello: hello, delegate: self
        ) { error in
            bound.value.isDialling = false
            bound.value.lost(error)
        }
    }

    private func lost(_ error: ServiceError) {
        link = nil
        renewal?.cancel()
        // There would be no notice of their end. A full rank of the same group still aborts its steps.
        otherRefusals = []
        guard !isStopped else { return }
        // Bytes that were damaged on the way, in either direction, are no reason to end: the next connection has others.
        // Nor is being denied: certificates and settings are read again while daemons run.
        if !error.isRetryable, error.code != .protocolViolation, error.code != .accessDenied {
            server.observe(.fatal(error))
            return
        }
        // Once: the daemon dials several times a second.
        if !hasReportedLoss {
            hasReportedLoss = true
            server.observe(.coordinatorLost(error))
        }
        let bound = NIOLoopBound(self, eventLoop: server.eventLoop)
        server.eventLoop.scheduleTask(in: server.configuration.redialDelay) { bound.value.dial() }
    }

    func send(_ message: Message, number: UInt64 = 0) {
        let frame = Frame(
            epoch: epoch, tag: Tag(client: ClientID(0), number: number), sender: server.configuration.rank,
            message: message)
        do throws(ServiceError) {
            try link?.send(frame)
        } catch {
            link?.close(error)
        }
    }

    private func register() {
        guard let endpoint else { preconditionFailure("started without an endpoint") }
        send(
            .register(
                Registration(
                    rank: server.configuration.rank, store: server.cache.storeID, cluster: server.cache.clusterID,
                    endpoint: endpoint, epoch: epoch,
                    models: server.cache.models.map {
                        ModelRecord(id: $0.id, name: $0.name, description: $0.description)
                    },
                    numbers: Registration.Numbers(
                        model: UInt32(truncatingIfNeeded: server.cache.highestNumbers.model),
                        sequence: server.cache.highestNumbers.sequence),
                    useCount: server.uses.count, incarnation: server.configuration.incarnation,
                    holder: server.configuration.holder, mark: server.cache.mark,
                    directoryMark: server.cache.directoryMark)))
    }

    /// What is held, a page at a time; collected on a thread, because the loop has a lease to keep meanwhile.
    private func tellHeld(in joined: Epoch) {
        heldPages = nil
        let (cache, uses, pageCount) = (server.cache, server.uses, server.configuration.heldPageCount)
        let bound = NIOLoopBound((self, link), eventLoop: server.eventLoop)
        let eventLoop = server.eventLoop
        server.pool.submit {
            let pages = HeldPages(of: cache, uses, pageCount: pageCount)
            eventLoop.execute {
                let (session, link) = bound.value
                guard session.link === link, session.epoch == joined else { return }
                session.heldPages = pages
                session.tellNextPage(after: 0)
            }
        }
    }

    private func tellNextPage(after taken: UInt64) {
        guard let (page, number) = heldPages?.next(after: taken) else { return }
        send(.heldSequences(page), number: number)
    }

    /// Renews three times a lease; a coordinator that is silent for a whole lease is dialled anew.
    private func keepLease(milliseconds: UInt32) {
        renewal?.cancel()
        lastRenewed = server.eventLoop.now
        let lease = TimeAmount.milliseconds(Int64(milliseconds))
        let bound = NIOLoopBound(self, eventLoop: server.eventLoop)
        let period = TimeAmount.milliseconds(Int64(max(1, milliseconds / 3)))
        renewal = server.eventLoop.scheduleRepeatedTask(initialDelay: period, delay: period) { _ in
            let session = bound.value
            if session.server.eventLoop.now - session.lastRenewed > lease {
                session.link?.close(ServiceError(.deadlineExceeded, "The coordinator sent nothing for a whole lease."))
            } else {
                session.renew()
            }
        }
    }

    /// Renews the lease, and tells what changed since the last time. Also at once when the store's condition changes.
    func renew() {
        guard link != nil else { return }
        server.noteStepsInFlight()
        var refusal = server.cache.refusal
        refusal?.rank = server.configuration.rank
        send(
            .renewLease(
                LeaseRenewal(
                    stepsInFlight: UInt32(server.steps.executions.count), refusal: refusal,
                    evictionByteCount: UInt64(server.cache.evictionByteCount), usedSequences: server.uses.take(),
                    durableMark: server.cache.durableMark)))
    }

    // MARK: The topology

    private func follow(_ topology: Topology) {
        guard topology.epoch >= epoch else {
            // The coordinator's state is older than ours: it was restored from a copy, or is not ours.
            server.observe(
                .fatal(
                    ServiceError(
                        .storeRefused,
                        "The coordinator is at \(topology.epoch), but this rank's store has seen \(epoch): the "
                            + "coordinator's state was lost, is an older copy, or is another cluster's. Restore the "
                            + "newest state; if it is lost for good, restart the coordinator with --adopt-ranks, which "
                            + "rebuilds the directory from the ranks' stores.")))
            return
        }
        self.topology = topology
        guard !isDraining else { return }
        keepLease(milliseconds: topology.leaseMilliseconds)
        switch topology.phase {
        case .incomplete:
            let error = ServiceError(.notReady, "The cluster is not ready: \(topology.reason). Try again when it is.")
            serving = .refusing(error)
            // The next join ends them anyway; a lost rank that still has its links open would be waited for until then.
            server.abortExchanges(error)
            server.observe(.notReady(reason: topology.reason))
        case .joining:
            join(topology)
        case .ready:
            guard topology.epoch == epoch else { return }
            serving = .yes
            wasReady = true
            server.observe(.ready(epoch))
            if server.cache.refusal != nil { renew() }
        }
    }

    /// A new epoch: steps of the old one end, the epoch is persisted, and the lengths of after that are registered.
    private func join(_ topology: Topology) {
        let next = topology.epoch
        serving = .refusing(ServiceError(.notReady, "The cluster is joining \(next); try again in a moment."))
        guard next > epoch else { return linksChanged() }
        server.abortAllSteps(
            ServiceError(.staleEpoch, "The membership changed to \(next) while the step was in flight; try again."))
        server.steps.dropEarly()
        epoch = next
        hasSentLinksReady = false
        server.observe(.joining(next))
        server.when(.withoutAnyStep) { self.persist(next) }
    }

    private func persist(_ next: Epoch) {
        guard epoch == next else { return }
        server.cursors.forgetAll()
        let cluster = topology?.cluster ?? .none
        let bound = NIOLoopBound(self, eventLoop: server.eventLoop)
        let eventLoop = server.eventLoop
        // The writer thread takes commits and this in order: the lengths registered afterwards are final for the epoch.
        server.cache.persist(epoch: next, of: cluster) { result in
            eventLoop.execute { bound.value.persisted(next, result) }
        }
    }

    private func persisted(_ next: Epoch, _ result: Result<Void, ServiceError>) {
        guard !isDraining, epoch == next, let topology, topology.epoch == next, topology.phase != .incomplete else {
            // A rank was lost meanwhile: the next join has a new epoch.
            return
        }
        if case .failure(let error) = result {
            link?.close(error)
            return
        }
        // The coordinator reports the cluster as ready only after this registration and all resulting operations, and
        // no client sends in an epoch that is not ready. A client that sends in it now has therefore learned of that
        // before this rank.
        serving = .yes
        hasRegistered = true
        FailPoint.registerAgain.pass()
        register()
        tellHeld(in: next)
        let group = server.cluster.members(ofHeadGroup: server.cluster.headGroup(of: server.configuration.rank))
        // All ranks are registered: the phase is not incomplete.
        server.peers.update(
            group.compactMap { rank in topology.endpoint(of: rank).map { (rank, $0) } }, delegate: server)
        linksChanged()
    }
}

extension CoordinatorSession: LinkDelegate {
    func link(_ link: Link, accepts hello: Hello) throws(ServiceError) -> Hello {
        throw ServiceError(.internal, "An outbound link does not accept connections.")
    }

    func link(_ link: Link, opened peer: Hello) {
        isDialling = false
        guard !isStopped, peer.role == .coordinator else {
            link.close(
                ServiceError(
                    .incompatible,
                    "Expected the coordinator at this endpoint, but found \(peer.sender); check --coordinator."))
            return
        }
        self.link = link
        isHeard = false
        FailPoint.registerFirst.pass()
        register()
    }

    func link(_ link: Link, received frame: Frame) {
        lastRenewed = server.eventLoop.now
        switch frame.message {
        case .topology(let topology):
            if !isHeard {
                isHeard = true
                hasReportedLoss = false
                server.observe(.coordinatorConnected)
            }
            follow(topology)
        case .operation(let operation): carryOut(operation, number: frame.tag.number)
        case .leaseRenewed: tellNextPage(after: frame.tag.number)
        case .refusals(let refusals):
            otherRefusals = refusals.filter { $0.rank != server.configuration.rank }
        case .victimsRequest(let candidates):
            send(.victims(server.victims(among: candidates)), number: frame.tag.number)
        case .matchRequest(let question): answer(question, number: frame.tag.number)
        case .lengthsRequest(let sequences):
            send(.lengths(heldLengths(of: sequences)), number: frame.tag.number)
        case .recordsRequest(let sequences):
            send(.records(records(of: sequences)), number: frame.tag.number)
        case .copyRequest: holdCopy(number: frame.tag.number)
        case .directoryMark(let mark): server.cache.note(mark)
        case .failure(let error):
            // The registration was refused, or the coordinator stops: it is about to close the link.
            link.close(error)
        default:
            link.close(
                ServiceError(
                    .protocolViolation,
                    "The coordinator sent a \(frame.message.type) frame, which a rank does not accept."))
        }
    }

    func link(_ link: Link, closed error: ServiceError) {
        isDialling = false
        lost(error)
    }
}
