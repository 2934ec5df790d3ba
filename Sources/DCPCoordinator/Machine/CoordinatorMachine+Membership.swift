// SPDX-License-Identifier: Apache-2.0

public import DCPCore
public import DCPWire

/// Membership and epochs.
extension CoordinatorMachine {
    /// A rank has registered: for the first time on this link, or again with its lengths of the epoch.
    public mutating func registered(_ registration: Registration, link: LinkID, now: Duration) -> [Action] {
        let rank = registration.rank
        guard slots[rank] != nil else {
            return refuse(
                link,
                ServiceError(
                    .invalidConfiguration,
                    "\(rank) is not in this cluster, which has ranks 0..<\(state.shape.ranks); correct --rank."))
        }
        if let known = self.rank(of: link) {
            guard known == rank else {
                return refuse(
                    link, ServiceError(.protocolViolation, "\(known) registered again as \(rank) on one connection."))
            }
            return registeredAgain(registration, now: now)
        }
        var actions: [Action] = []
        if case .present(let member) = slots[rank] {
            guard member.registration.store == registration.store else {
                return refuse(
                    link,
                    ServiceError(
                        .conflict,
                        "\(rank) is already registered with store \(member.registration.store), and a second process "
                            + "came with store \(registration.store); start each rank once, with its own --rank."))
            }
            guard member.registration.incarnation == registration.incarnation else {
                return refuseSecondHolder(registration, link, beside: member, now: now)
            }
            // The same process: its older connection is obsolete.
            actions += lost(rank, reason: "it reconnected")
            actions.append(.close(member.link, ServiceError(.rankUnavailable, "\(rank) has reconnected.")))
        }
        if let error = stranger(registration) {
            return actions + [.report(.rankRefused(rank, error))] + refuse(link, error)
        }
        if let expected = state.stores[rank], expected != registration.store, adoption == nil {
            guard spend(.store(expected), of: rank) else {
                return actions
                    + refuse(
                        link,
                        ServiceError(
                            .storeRefused,
                            "\(rank) came with store \(registration.store), but this cluster knows it with store "
                                + "\(expected). Start it with the right --store; if that store is lost for good, "
                                + "`dcpctl store replace \(rank.value)` accepts another in its place, which gives up "
                                + "the tokens it held."))
            }
        }
        if state.stores[rank] == registration.store, registration.mark < state.marks[rank] ?? 0 {
            guard spend(.changes(state.marks[rank] ?? 0), of: rank) else {
                let error = olderStore(registration)
                return actions + [.report(.olderStore(rank, error))] + refuse(link, error)
            }
            actions += takeOlder(registration)
        }
        if state.stores[rank] != registration.store {
            actions += persist([.store(rank, registration.store), .mark(rank, 0)])
        }
        adoption?.note(registration)
        secondHolders.forget(rank)
        slots[rank] = .present(Member(link: link, registration: registration, lastHeard: now))
        actions.append(.report(.rankRegistered(rank, registration.store, endpoint: registration.endpoint)))
        if members.count == state.shape.ranks {
            actions += join()
        } else {
            actions += announce()
        }
        return actions
    }

    /// All ranks have registered: a new epoch begins.
    mutating func join() -> [Action] {
        phase = .joining
        lateRetentions = []
        for rank in state.shape.allRanks {
            update(rank) {
                $0.hasJoined = false
                $0.holdings = nil
                $0.hasLinks = false
            }
        }
        let actions = persist(adoption == nil ? [.epoch(state.epoch.next)] : beginAdoption())
        return actions + [.report(.joining(state.epoch))] + announce()
    }

    private mutating func registeredAgain(_ registration: Registration, now: Duration) -> [Action] {
        // Lengths of an older epoch may still change; the rank registers once more in the current one.
        guard case .joining = phase, registration.epoch == state.epoch else { return [] }
        let count = state.sequences.count
        update(registration.rank) {
            $0.registration = registration
            $0.lastHeard = now
            $0.holdings = Holdings(capacity: count)
            $0.hasJoined = false
        }
        return persist(numbersTaken(by: registration))
    }

    /// A rank that has registered in the epoch sends a page of its sequences. It hears when the page is taken, and sends
    /// the next one then.
    package mutating func heldSequences(
        _ link: LinkID, epoch: Epoch, number: UInt64, _ page: HeldSequences, now: Duration
    ) -> [Action] {
        guard let rank = rank(of: link), case .joining = phase, epoch == state.epoch, isTelling(rank) else { return [] }
        var heldCount = 0
        update(rank) {
            $0.holdings!.add(page)
            $0.lastHeard = now
            $0.hasJoined = page.isLast
            heldCount = $0.holdings!.sequences.count
        }
        guard heldCount <= heldMax else {
            return refuse(
                link,
                ServiceError(
                    .storeRefused,
                    "\(rank) holds more than \(heldMax) sequences, twice as many as a directory may have: its store "
                        + "belongs to another cluster, or kept sequences that the directory does not know. Start it "
                        + "with the right --store.",
                    rank: rank))
        }
        guard page.isLast else { return [.send(.leaseRenewed, number: number, to: link)] }
        guard members.allSatisfy({ $0.member.hasJoined }) else { return [] }
        eviction.begin(joined)
        return adoption == nil ? settle() : askForRecords()
    }

    /// Whether a rank has registered in the epoch but not sent all its sequences.
    private func isTelling(_ rank: RankIndex) -> Bool {
        guard case .present(let member) = slots[rank] else { return false }
        return !member.hasJoined && member.holdings != nil
    }

    /// The limit of a rank's sequences, including those of an older directory.
    private var heldMax: Int { 2 * sequencesMax }

    /// All ranks have registered in the epoch, and there is a directory.
    mutating func settle() -> [Action] {
        reconciliation = Reconciliation(state, joined, pieceCount: joinPieceCount)
        return [.goOn]
    }

    public mutating func linksReady(_ link: LinkID, epoch: Epoch, now: Duration) -> [Action] {
        guard let rank = rank(of: link), epoch == state.epoch else { return [] }
        update(rank) {
            $0.lastHeard = now
            $0.hasLinks = true
        }
        return becomeReadyIfDone()
    }

    mutating func becomeReadyIfDone() -> [Action] {
        guard case .joining = phase, adoption == nil, members.count == state.shape.ranks,
            members.allSatisfy({ $0.member.hasJoined && $0.member.hasLinks }), reconciliation == nil, operations.isEmpty
        else { return [] }
        phase = .ready
        refusedForks = [:]
        for rank in state.shape.allRanks { update(rank) { $0.holdings = nil } }
        var actions = announce() + [.report(.ready(state.epoch))]
        if !refusals.isEmpty { actions += tellRefusals() }
        for waiter in waiters {
            actions.append(.answer(.reply(topology, to: GetTopology.self), waiter.tag, to: waiter.link))
        }
        waiters = []
        return actions + tellLateRetentions()
    }

    public mutating func linkClosed(_ link: LinkID, reason: ServiceError) -> [Action] {
        waiters.removeAll { $0.link == link }
        requests = requests.filter { $0.value.link != link }
        guard let rank = rank(of: link) else { return [] }
        return lost(rank, reason: "its connection closed")
    }

    /// Time passed: leases end, and waiting clients are answered.
    /// - Parameter isLate: something else took the loop's time. What ranks have sent meanwhile may be unread: no lease
    ///   ends now.
    /// - Parameter recordsMarks: not while changes wait for room on the disk, because marks rise with every commit.
    public mutating func tick(now: Duration, isLate: Bool = false, recordsMarks: Bool = true) -> [Action] {
        var actions: [Action] = []
        for (rank, member) in members where !isLate && now - member.lastHeard > lease {
            let reason = "it sent nothing for its whole lease of \(lease)"
            actions += lost(rank, reason: reason)
            actions.append(
                .close(member.link, ServiceError(.deadlineExceeded, "The lease of \(rank) ended: \(reason).")))
        }
        let (due, waiting) = (waiters.filter { $0.deadline <= now }, waiters.filter { $0.deadline > now })
        waiters = waiting
        actions += due.map { .answer(.reply(topology, to: GetTopology.self), $0.tag, to: $0.link) }
        return actions + endLateCopying(now: now) + (recordsMarks ? recordMarks(now: now) : []) + resendPostponed()
            + dropUnknownSequences(now: now)
            + evictAged(now: now)
    }

    /// Clients that may wait for the cluster; further ones are answered immediately.
    static let waitersMax = 4096

    public mutating func topologyRequest(_ link: LinkID, _ tag: Tag, wait: Duration, now: Duration) -> [Action] {
        if case .ready = phase { return [.answer(.reply(topology, to: GetTopology.self), tag, to: link)] }
        guard wait > .zero, waiters.count < Self.waitersMax else {
            return [.answer(.reply(topology, to: GetTopology.self), tag, to: link)]
        }
        waiters.append(Waiter(link: link, tag: tag, deadline: now + wait))
        return []
    }

    private mutating func lost(_ rank: RankIndex, reason: String) -> [Action] {
        slots[rank] = .missing(reason: reason)
        phase = .incomplete
        return recordMarks(lost: rank) + [.report(.rankLost(rank, reason: reason))] + abandonOperations(lost: rank)
            + announce()
            + forgetRoom(of: rank)
    }

    /// Sends every rank the topology.
    private func announce() -> [Action] {
        members.map { .send(.topology(topology), number: 0, to: $0.member.link) }
    }

    func refuse(_ link: LinkID, _ error: ServiceError) -> [Action] {
        [.send(.failure(error), number: 0, to: link), .close(link, error)]
    }
}
