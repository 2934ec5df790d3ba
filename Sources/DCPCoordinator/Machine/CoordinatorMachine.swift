public import DCPCore
public import DCPTransport
public import DCPWire

/// Membership and directory as a value: events in, actions out; no async, no clock, no socket.
///
/// The cluster's phase: `incomplete → joining(e) → ready(e) → incomplete → joining(e + 1)`. It joins when every rank
/// has registered; the epoch rises then. In `joining` each rank registers again, with the lengths it has once nothing
/// of the old epoch can change them any more; the coordinator brings the ranks to one state (`Reconciliation`), and the
/// ranks connect to their head groups. When all of that is confirmed the cluster is ready.
///
/// Actions are carried out in order. Those after a `persist` only when it is durable: whatever a rank or a client is
/// told survives the coordinator.
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
        /// Let `goOn` do the next piece of what takes long, when others have had their turn.
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
        /// Has told all that it holds in the current epoch.
        var hasJoined = false
        var hasLinks = false
        /// How far it was told the directory to have come, on its link.
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
    /// In which order each rank carries them out.
    var queues: [RankIndex: OperationQueue] = [:]
    let operationWindow: Int
    let sequencesMax: Int
    /// How many sequences `goOn` compares, looks up, or begins to carry, at once.
    package var joinPieceCount = Reconciliation.pieceCount
    var nextOperation: UInt64 = 1
    var nextRequest: UInt64 = 1
    var claims = Claims()
    /// Sequences of which something is recorded as owed to ranks, and is not when the reconciliation's operations are
    /// confirmed.
    var owed: Set<SequenceID> = []
    /// The length at which a rank refused to make a fork in the last join.
    var refusedForks: [SequenceID: Int] = [:]
    /// What ranks hold and the directory does not know, as of the last join.
    var unknownSequences: [SequenceID: UnknownSequence] = [:]
    /// When the first of them was found.
    var oldestUnknown: Duration?
    /// While the ranks of a new epoch are brought to one state.
    var reconciliation: Reconciliation?
    let lease: Duration
    let unknownGrace: Duration
    /// Why ranks take no new tokens, as each said last.
    var refusals: [RankIndex: ServiceError] = [:]
    var eviction: Eviction
    var ages = AgeQueue()
    /// What operators have given up by a request; each is spent by the store that is taken for it.
    var losses: Set<RankLoss> = []
    /// What the configuration gives up.
    var configuredLosses: Set<RankLoss>
    /// While the directory is made of what the ranks hold.
    var adoption: Adoption?
    /// While a backup is being begun nothing is sent to ranks.
    var copying: Copying?
    var marks = StoreMarks()
    var secondHolders = SecondHolders()

    /// - Parameters:
    ///   - unknownGrace: how long ranks keep sequences that the directory does not know.
    ///   - adoptsRanks: whether the directory is made of what the ranks' stores hold: an operator has said that the state
    ///     is lost or an older copy.
    ///   - adoptionMargin: how far above all epochs seen that begins; drawn by the caller.
    ///   - evictIdle: with `lru`, how long a sequence must not have been used to be evicted.
    ///   - operationWindow: how many operations may be on their way to one rank at once.
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

    /// Those who have registered in the epoch, with what they hold.
    var joined: [JoinedRank] {
        members.compactMap { _, member in
            member.holdings.map { JoinedRank(registration: member.registration, holdings: $0) }
        }
    }

    package func rank(of link: LinkID) -> RankIndex? { members.first { $0.member.link == link }?.rank }

    mutating func update(_ rank: RankIndex, _ body: (inout Member) -> Void) {
        guard case .present(var member) = slots[rank] else { return }
        // Out of its place meanwhile, or what it holds would be copied at each change.
        slots[rank] = .missing(reason: "")
        body(&member)
        slots[rank] = .present(member)
    }

    /// Applies changes to the state and asks for them to be made durable, counted.
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
            // No rank is told of an epoch below its own.
            epoch: max(state.epoch, adoption?.epoch ?? .none), phase: wirePhase, reason: reason, shape: state.shape,
            leaseMilliseconds: UInt32(lease.components.seconds * 1000)
                + UInt32(lease.components.attoseconds / 1_000_000_000_000_000),
            members: members, cluster: state.cluster)
    }
}

/// What the coordinator did that somebody may want to know. The library reports; the daemon logs, once each.
public enum CoordinatorEvent: Sendable {
    case listening(String)
    case rankRegistered(RankIndex, StoreID, endpoint: Endpoint)
    case rankLost(RankIndex, reason: String)
    /// It came with a store of another cluster, or with one of none where ranks are adopted.
    case rankRefused(RankIndex, ServiceError)
    /// Two processes that live have one rank's store; the one that came later is refused. The text names both.
    case secondHolder(RankIndex, ServiceError)
    /// A store that is behind what it reported is refused. The text names both marks.
    case olderStore(RankIndex, ServiceError)
    /// A client gives up a rank's store, or its latest changes.
    case gaveUp(RankIndex, StoreLoss, by: String)
    /// One is taken instead, as the operator wants it. Sequences that were cut since its epoch are cut to there again.
    case olderStoreTaken(RankIndex, mark: UInt64, recorded: UInt64, cuts: [(SequenceRecord, to: Int)])
    case joining(Epoch)
    case ready(Epoch)
    /// Tokens that nobody asked to be cut are cut at a join, since not every rank has them.
    case reconciled([SequenceCut])
    /// The directory was made of what the ranks hold.
    case adopted(AdoptionReport)
    /// Sequences on a rank that the directory does not know. They are left alone for a grace time.
    case unknownSequences(RankIndex, [SequenceID])
    /// The grace time of one is over: the ranks that hold it are told to close it.
    case droppedUnknown(SequenceID, ranks: [RankIndex])
    case operationFailed(DirectoryOperation, ServiceError)
    /// A sequence is closed that nobody asked to close.
    case evicted(SequenceID, name: String, EvictionCause)
    case refused(peer: String, RefusalCause, ServiceError)
    case fatal(ServiceError)
}
