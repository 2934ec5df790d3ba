// SPDX-License-Identifier: Apache-2.0

public import DCPCore
public import DCPTransport
public import DCPWire

/// Membership and directory as a value: events in, actions out; no async, no clock, no socket.
///
/// The cluster's phase: `incomplete → joining(e) → ready(e) → incomplete → joining(e + 1)`. It joins when every rank
/// has registered; the epoch rises then. In `joining` each rank registers again with its lengths, when nothing of the
/// old epoch can change them any more.
///
/// The coordinator brings the ranks to the same state (`Reconciliation`), and the ranks connect to their head groups.
/// When all of this is confirmed, the cluster is ready. Actions are executed in order, and those after a `persist` only
/// when it is durable: every answer to a rank or a client survives the coordinator.
public struct CoordinatorMachine: Sendable {
    /// A connection, as the shell numbers it.
    public struct LinkID: Hashable, Sendable {
        public let value: UInt64
        public init(_ value: UInt64) { self.value = value }
    }

    public enum Action: Sendable {
        case persist([StateChange])
        case send(Message, number: UInt64, to: LinkID)
        /// To a client.
        case answer(Message, Tag, to: LinkID)
        case close(LinkID, ServiceError)
        /// The coordinator's own store, as it is now, for a backup of this number.
        case hold(UInt64)
        /// Call `goOn` for the next piece of long work, after other events.
        case goOn
        case report(CoordinatorEvent)
    }

    public enum Phase: Hashable, Sendable {
        case incomplete
        case joining
        case ready
    }

    enum Slot: Sendable {
        /// `reason` for people: why it is missing.
        case missing(reason: String)
        case present(Member)
    }

    struct Member: Sendable {
        var link: LinkID
        var registration: Registration
        var lastHeard: Duration
        /// What it holds, from its registration in the current epoch until the cluster is ready.
        var holdings: Holdings?
        /// It has sent all its sequences in the current epoch.
        var hasJoined = false
        var hasLinks = false
        /// The directory mark last sent on its link.
        var directoryMark = DirectoryMark.none
    }

    struct Waiter: Sendable {
        var link: LinkID
        var tag: Tag
        var deadline: Duration
    }

    public internal(set) var state: CoordinatorState
    public internal(set) var phase = Phase.incomplete
    var slots: [RankIndex: Slot]
    var waiters: [Waiter] = []
    /// Requests that are not answered yet, by number.
    var requests: [UInt64: PendingRequest] = [:]
    var matches: [UInt64: PendingMatch] = [:]
    var operations: [UInt64: PendingOperation] = [:]
    /// How many of them make, change or read each sequence.
    var underWay: [SequenceID: Int] = [:]
    /// The order of operations for each rank.
    var queues: [RankIndex: OperationQueue] = [:]
    let operationWindow: Int
    let sequencesMax: Int
    /// Number of sequences that `goOn` compares, looks up, or sends at once.
    package var joinPieceCount = Reconciliation.pieceCount
    var nextOperation: UInt64 = 1
    var nextRequest: UInt64 = 1
    var claims = Claims()
    /// Sequences with recorded pending changes, which are applied when the reconciliation's operations are confirmed.
    var owed: Set<SequenceID> = []
    /// Sequences whose retention was set during the join.
    var lateRetentions: Set<SequenceID> = []
    /// The length at which a rank refused to create a fork in the last join.
    var refusedForks: [SequenceID: Int] = [:]
    /// Sequences on ranks that were not in the directory at the last join.
    var unknownSequences: [SequenceID: UnknownSequence] = [:]
    /// When the first of them was found.
    var oldestUnknown: Duration?
    /// Set while the ranks of a new epoch are brought to the same state.
    var reconciliation: Reconciliation?
    let lease: Duration
    let unknownGrace: Duration
    /// Why ranks refuse new tokens, as each last reported.
    var refusals: [RankIndex: ServiceError] = [:]
    var eviction: Eviction
    var ages = AgeQueue()
    /// Losses that operators have confirmed by a request; accepting a store uses one up.
    var losses: Set<RankLoss> = []
    /// Losses confirmed in the configuration.
    var configuredLosses: Set<RankLoss>
    /// Set while the directory is being rebuilt from the ranks' stores.
    var adoption: Adoption?
    /// Set while a backup begins: no operation is sent to ranks.
    var copying: Copying?
    var marks = StoreMarks()
    var secondHolders = SecondHolders()

    /// - Parameters:
    ///   - unknownGrace: how long ranks keep sequences that the directory does not know.
    ///   - adoptsRanks: whether to rebuild the directory from the ranks' stores: an operator has confirmed that the
    ///     state is lost or an older copy.
    ///   - adoptionMargin: the distance of that epoch from the highest one seen; drawn by the caller.
    ///   - evictIdle: with `lru`, the time without use after which a sequence may be evicted.
    ///   - operationWindow: the maximum number of operations in flight per rank.
    public init(
        state: CoordinatorState, lease: Duration, unknownGrace: Duration = .seconds(3600),
        losses: Set<RankLoss> = [], adoptsRanks: Bool = false, adoptsWithout: Set<RankIndex> = [],
        adoptionMargin: UInt64 = 1, evict: EvictionPolicy = .off, evictIdle: Duration = .seconds(10),
        operationWindow: Int = 256, sequencesMax: Int = Self.sequencesMax
    ) {
        self.state = state
        eviction = Eviction(policy: evict, idle: evictIdle)
        configuredLosses = losses
        self.lease = lease
        self.unknownGrace = unknownGrace
        self.operationWindow = operationWindow
        self.sequencesMax = sequencesMax
        if adoptsRanks || state.isAdopting {
            adoption = Adoption(replaced: adoptsWithout, epochMargin: adoptionMargin)
        }
        slots = Dictionary(
            uniqueKeysWithValues: state.shape.allRanks.map { ($0, .missing(reason: "it has not registered yet")) })
        for entry in state.sequences.values { noteAge(of: entry) }
    }

    var members: [(rank: RankIndex, member: Member)] {
        state.shape.allRanks.compactMap { rank in
            if case .present(let member) = slots[rank] { return (rank, member) }
            return nil
        }
    }

    /// Ranks that have registered in the epoch, with their sequences.
    var joined: [JoinedRank] {
        members.compactMap { _, member in
            member.holdings.map { JoinedRank(registration: member.registration, holdings: $0) }
        }
    }

    package func rank(of link: LinkID) -> RankIndex? { members.first { $0.member.link == link }?.rank }

    mutating func update(_ rank: RankIndex, _ body: (inout Member) -> Void) {
        guard case .present(var member) = slots[rank] else { return }
        // Moved out meanwhile, so that a change does not copy its contents.
        slots[rank] = .missing(reason: "")
        body(&member)
        slots[rank] = .present(member)
    }

    /// Applies and counts changes to the state, and requests their persistence.
    mutating func persist(_ changes: [StateChange]) -> [Action] {
        guard !changes.isEmpty else { return [] }
        let changes = changes + [.directoryMark(state.directoryMark.next)]
        for change in changes {
            state.apply(change)
            switch change {
            case .sequence(let entry): noteAge(of: entry)
            case .sequenceRemoved(let id):
                claims.closed(id)
                eviction.closed(id)
                ages.remove(id)
            default: break
            }
        }
        return [.persist(changes)]
    }

    /// Why the cluster is not ready, naming the ranks.
    public var reason: String {
        switch phase {
        case .ready: return ""
        case .incomplete:
            let missing = state.shape.allRanks.compactMap { rank -> String? in
                if case .missing(let reason) = slots[rank] { return "\(rank) missing (\(reason))" }
                return nil
            }
            return missing.joined(separator: ", ")
        case .joining:
            let late = members.compactMap { rank, member -> String? in
                if !member.hasJoined { return "\(rank) is joining \(state.epoch)" }
                return member.hasLinks ? nil : "\(rank) is connecting to its head group"
            }
            if late.isEmpty, adoption != nil { return "the directory is being rebuilt from the ranks' stores" }
            return late.isEmpty ? "sequences are being reconciled" : late.joined(separator: ", ")
        }
    }

    public var topology: Topology {
        let members = state.shape.allRanks.map { rank in
            if case .present(let member) = slots[rank] {
                return Topology.Member(rank: rank, endpoint: member.registration.endpoint)
            }
            return Topology.Member(rank: rank, endpoint: nil)
        }
        let wirePhase: Topology.Phase =
            switch phase {
            case .incomplete: .incomplete
            case .joining: .joining
            case .ready: .ready
            }
        return Topology(
            // No rank receives an epoch below its own.
            epoch: max(state.epoch, adoption?.epoch ?? .none), phase: wirePhase, reason: reason, shape: state.shape,
            leaseMilliseconds: UInt32(lease.components.seconds * 1000)
                + UInt32(lease.components.attoseconds / 1_000_000_000_000_000),
            members: members, cluster: state.cluster)
    }
}

/// Events of the coordinator. The library reports them; the daemon logs each once.
public enum CoordinatorEvent: Sendable {
    case listening(String)
    case rankRegistered(RankIndex, StoreID, endpoint: Endpoint)
    case rankLost(RankIndex, reason: String)
    /// It registered with a store of another cluster or, during an adoption, of no cluster.
    case rankRefused(RankIndex, ServiceError)
    /// Two running processes have one rank's store; the later one is refused. The text names both.
    case secondHolder(RankIndex, ServiceError)
    /// A store behind its reported mark is refused. The text has both marks.
    case olderStore(RankIndex, ServiceError)
    /// A client gives up a rank's store, or its latest changes.
    case gaveUp(RankIndex, StoreLoss, by: String)
    /// Another store is accepted instead, as the operator confirmed. Sequences that were cut since its epoch are cut
    /// there again.
    case olderStoreTaken(RankIndex, mark: UInt64, recorded: UInt64, cuts: [(SequenceRecord, to: Int)])
    case joining(Epoch)
    case ready(Epoch)
    /// A join cuts committed tokens without a request, because not every rank has them.
    case reconciled([SequenceCut])
    /// The directory was rebuilt from the ranks' stores.
    case adopted(AdoptionReport)
    /// Sequences on a rank that are not in the directory. They are kept for a grace time.
    case unknownSequences(RankIndex, [SequenceID])
    /// Its grace time has passed: the ranks that have it close it.
    case droppedUnknown(SequenceID, ranks: [RankIndex])
    case operationFailed(DirectoryOperation, ServiceError)
    /// The coordinator closes a sequence on its own decision.
    case evicted(SequenceID, name: String, EvictionCause)
    case refused(peer: String, RefusalCause, ServiceError)
    /// The disk of the state refuses changes, most likely because it is full; they wait.
    case diskFull(ServiceError)
    /// It has taken them.
    case diskHasRoom
    case fatal(ServiceError)
}
