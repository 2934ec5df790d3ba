// SPDX-License-Identifier: Apache-2.0

import DCPCoordinator
import DCPCore
import DCPWire
import Testing

/// Testing has another type of this name.
typealias Tag = DCPWire.Tag
typealias LinkID = CoordinatorMachine.LinkID

/// A machine with everything it ever said, and the promises it has to keep with each word: it persists a state before
/// it tells anybody of it.
struct Driver {
    var machine: CoordinatorMachine
    private(set) var actions: [CoordinatorMachine.Action] = []
    private(set) var persisted: [StateChange] = []
    /// How far the directory has come that a restart would find.
    private var directoryMark = DirectoryMark.none
    var now: Duration = .zero
    private var nextTag: UInt64 = 0
    /// Sequences in a page of what a rank holds: two, so that most tests have several.
    var pageCount = 2
    /// Whether the machine goes on as soon as it asks for it.
    var goesOn = true
    /// What a client was given last, for requests behind each other.
    private(set) var lastClaim = Claim.none

    static let lease = Duration.seconds(5)

    static let unknownGrace = Duration.seconds(60)

    init(
        ranks: Int = 2, losses: Set<RankLoss> = [], adopts: Bool = false, without: Set<RankIndex> = [],
        evict: EvictionPolicy = .off, evictIdle: Duration = .seconds(10),
        sequencesMax: Int = CoordinatorMachine.sequencesMax
    ) throws {
        let shape = try ClusterShape(
            ranks: ranks, headGroups: 1, interleave: 1, blockTokens: 16, exchange: .allToAll)
        machine = CoordinatorMachine(
            state: CoordinatorState(shape: shape, cluster: Self.cluster), lease: Self.lease,
            unknownGrace: Self.unknownGrace, losses: losses, adoptsRanks: adopts, adoptsWithout: without,
            adoptionMargin: 1000, evict: evict, evictIdle: evictIdle, sequencesMax: sequencesMax)
        directoryMark = machine.state.directoryMark
    }

    /// A coordinator that starts with a directory, of two ranks.
    init(state: CoordinatorState, sequencesMax: Int = CoordinatorMachine.sequencesMax) {
        machine = CoordinatorMachine(state: state, lease: Self.lease, adoptionMargin: 1000, sequencesMax: sequencesMax)
        directoryMark = machine.state.directoryMark
    }

    /// A coordinator that starts again with what another has persisted.
    init(
        restarting other: Driver, losses: Set<RankLoss> = [], adopts: Bool = false, evict: EvictionPolicy = .off
    ) {
        machine = CoordinatorMachine(
            state: other.machine.state, lease: Self.lease, losses: losses, adoptsRanks: adopts, adoptionMargin: 1000,
            evict: evict)
        directoryMark = machine.state.directoryMark
    }

    @discardableResult
    mutating func note(_ new: [CoordinatorMachine.Action]) -> [CoordinatorMachine.Action] {
        var isToGoOn = false
        for action in new {
            switch action {
            case .goOn: isToGoOn = true
            case .persist(let changes):
                persisted += changes
                for case .directoryMark(let mark) in changes { directoryMark = mark }
            case .send(.directoryMark(let mark), _, _):
                #expect(mark <= directoryMark, "a rank is told of what is not durable")
            default: break
            }
            actions.append(action)
        }
        guard isToGoOn, goesOn else { return new }
        return new + note(machine.goOn(now: now))
    }

    /// Lets something happen to the machine, and returns what it did.
    @discardableResult
    mutating func on(_ body: (inout CoordinatorMachine) -> [CoordinatorMachine.Action]) -> [CoordinatorMachine.Action] {
        note(body(&machine))
    }

    static let cluster = ClusterID(1)
    static func store(_ rank: UInt16) -> StoreID { StoreID(high: 7, low: UInt64(rank)) }
    static func link(_ rank: UInt16) -> LinkID { LinkID(UInt64(rank) + 1) }
    static let client = LinkID(100)

    @discardableResult
    mutating func register(
        _ rank: UInt16, store: StoreID? = nil, cluster: ClusterID = .none, link: LinkID? = nil, epoch: Epoch = .none,
        models: [ModelRecord] = [], numbers: Registration.Numbers? = nil, lengths: [SequenceID: Int] = [:],
        intact: [SequenceID: Int] = [:], retentions: [SequenceID: Retention] = [:], order: [SequenceID] = [],
        useCount: UInt64 = 0, incarnation: UInt64 = 0, mark: UInt64 = 0, directoryMark: DirectoryMark = .none
    ) -> [CoordinatorMachine.Action] {
        let place = { (id: SequenceID) in order.firstIndex(of: id) ?? -1 }
        let registration = Registration(
            rank: RankIndex(rank), store: store ?? Self.store(rank), cluster: cluster,
            endpoint: .unix(path: "/rank-\(rank)"), epoch: epoch, models: models,
            numbers: numbers
                ?? .init(model: models.map(\.id.value).max() ?? 0, sequence: lengths.keys.map(\.value).max() ?? 0),
            useCount: useCount, incarnation: incarnation, holder: "process \(incarnation)", mark: mark,
            directoryMark: directoryMark)
        let link = link ?? Self.link(rank)
        let isAgain = machine.phase == .joining && epoch == machine.state.epoch && machine.rank(of: link) != nil
        let actions = note(machine.registered(registration, link: link, now: now))
        guard isAgain else { return actions }
        let held = lengths.sorted { (place($0.key), $0.key) < (place($1.key), $1.key) }.map {
            HeldSequences.Element(
                sequence: $0.key, model: ModelID(1), committedLength: $0.value, intactLength: intact[$0.key],
                retention: retentions[$0.key] ?? Retention())
        }
        return actions + tell(held, link, epoch)
    }

    /// Tells what a rank holds, page by page.
    @discardableResult
    mutating func tell(
        _ held: [HeldSequences.Element], _ link: LinkID, _ epoch: Epoch
    ) -> [CoordinatorMachine.Action] {
        var actions: [CoordinatorMachine.Action] = []
        var rest = held[...]
        repeat {
            let page = HeldSequences(Array(rest.prefix(pageCount)), isLast: rest.count <= pageCount)
            actions += note(machine.heldSequences(link, epoch: epoch, number: 0, page, now: now))
            rest = rest.dropFirst(pageCount)
        } while !rest.isEmpty
        return actions
    }

    @discardableResult
    mutating func linksReady(_ rank: UInt16) -> [CoordinatorMachine.Action] {
        note(machine.linksReady(Self.link(rank), epoch: machine.state.epoch, now: now))
    }

    /// Brings all ranks from nothing to ready, confirming every operation.
    mutating func becomeReady(
        models: [ModelRecord] = [], lengths: [[SequenceID: Int]] = []
    ) {
        let ranks = UInt16(machine.state.shape.ranks)
        for rank in 0..<ranks { register(rank, epoch: machine.state.epoch) }
        for rank in 0..<ranks {
            let own = lengths.isEmpty ? [:] : lengths[Int(rank)]
            confirm(register(rank, epoch: machine.state.epoch, models: models, lengths: own))
        }
        for rank in 0..<ranks { linksReady(rank) }
    }

    /// Confirms every operation among some actions, and those that had waited for them, as the ranks would.
    mutating func confirm(_ sent: [CoordinatorMachine.Action]) {
        var asked = operations(sent)[...]
        while let (_, number, link) = asked.popFirst() {
            asked += operations(note(machine.operationDone(link, number: number)))
        }
    }

    /// A client's request, and what the machine did. One that needs a claim and states none takes one first.
    mutating func ask(_ request: DirectoryRequest) -> [CoordinatorMachine.Action] {
        guard let (name, stating) = request.claimable else { return send(request) }
        lastClaim = claim(name) ?? .none
        return send(stating(lastClaim))
    }

    /// A client's request for a claim.
    @discardableResult
    mutating func sendClaim(
        _ name: String, held: Claim = .none, client: ClientID = ClientID(1)
    ) -> [CoordinatorMachine.Action] {
        let id = machine.state.sequences.values.first { $0.record.name == name }?.record.id ?? SequenceID(0)
        return send(.claim(id, held: held), client: client)
    }

    /// The claim that a client is answered when all ranks have been told.
    mutating func claim(_ name: String, held: Claim = .none) -> Claim? {
        let before = actions.count
        confirm(sendClaim(name, held: held))
        return replies(Array(actions[before...])).lazy.map(\.claim).first { $0 != .none }
    }

    mutating func taken(_ name: String) throws -> Claim {
        let claim = claim(name)
        return try #require(claim)
    }

    /// A client's request as it is.
    @discardableResult
    mutating func send(
        _ request: DirectoryRequest, from caller: Caller = .unlimited, client: ClientID = ClientID(1)
    ) -> [CoordinatorMachine.Action] {
        nextTag += 1
        let tag = Tag(client: client, number: nextTag)
        return note(request.send(to: &machine, Self.client, tag, from: caller, now))
    }

    /// One or many things of a kind, as they are.
    mutating func send<Item: DirectoryItem>(
        many items: [Item], client: ClientID = ClientID(1)
    ) -> [CoordinatorMachine.Action] {
        nextTag += 1
        let tag = Tag(client: client, number: nextTag)
        return note(machine.requested(Many(items), link: Self.client, tag: tag, from: .unlimited, now: now))
    }

    /// A client's request, carried through by all ranks.
    mutating func carry(_ request: DirectoryRequest) throws -> DirectoryReply {
        let sent = ask(request)
        let before = actions.count
        confirm(sent)
        return try #require(replies(sent + actions[before...]).first)
    }

    /// The first error a client was answered with.
    mutating func refusal(of request: DirectoryRequest) throws -> ServiceError {
        try #require(errors(ask(request)).first)
    }
}

// What actions are about.

func operations(_ actions: some Sequence<CoordinatorMachine.Action>) -> [(
    operation: DirectoryOperation, number: UInt64, link: LinkID
)] {
    actions.compactMap {
        guard case .send(.operation(let operation), let number, let link) = $0 else { return nil }
        return (operation, number, link)
    }
}

func replies(_ actions: some Sequence<CoordinatorMachine.Action>) -> [DirectoryReply] {
    actions.compactMap { if case .answer(let message, _, _) = $0 { DirectoryReply(message) } else { nil } }
}

func errors(_ actions: some Sequence<CoordinatorMachine.Action>) -> [ServiceError] {
    actions.compactMap {
        if case .answer(let message, _, _) = $0 { DirectoryRequest.refusal(in: message) } else { nil }
    }
}

func topologies(_ actions: some Sequence<CoordinatorMachine.Action>) -> [(topology: Topology, link: LinkID)] {
    actions.compactMap { if case .send(.topology(let topology), _, let link) = $0 { (topology, link) } else { nil } }
}

func answeredTopologies(_ actions: some Sequence<CoordinatorMachine.Action>) -> [Topology] {
    actions.compactMap {
        if case .answer(.reply(let body), _, _) = $0 { try? body.reply(to: GetTopology.self) } else { nil }
    }
}

func refusals(_ actions: some Sequence<CoordinatorMachine.Action>) -> [(link: LinkID, error: ServiceError)] {
    actions.compactMap { if case .close(let link, let error) = $0 { (link, error) } else { nil } }
}

/// One word for each action, so that an order can be compared. Without directory marks, which go before whatever is new to a
/// rank.
func kinds(_ actions: some Sequence<CoordinatorMachine.Action>) -> [String] {
    actions.compactMap { action in
        switch action {
        case .send(.directoryMark, _, _): nil
        case .persist: "persist"
        case .send(let message, _, _): "send \(message.type)"
        case .answer(let message, _, _):
            DirectoryRequest.refusal(in: message) == nil ? "answer reply" : "answer failure"
        case .close: "close"
        case .hold: "hold"
        case .goOn: nil
        case .report: "report"
        }
    }
}

func shape(queryHeads: Int = 8, softcap: Float? = nil) throws -> ModelDescription {
    try ModelDescription(
        layers: 2, queryHeads: queryHeads, kvHeads: 2, keyDim: 16, valueDim: 16, scale: 0.25, softcap: softcap,
        kvFormat: .bfloat16)
}

/// Of 4 MiB, all of it sinks.
func largeShape() throws -> ModelDescription {
    let layer = try LayerAttention(queryHeads: 1024, kvHeads: 1, keyDim: 8, values: .own(8), scale: 1, hasSinks: true)
    let sinks = (0..<ModelDescription.layersMax).map { [Float](repeating: Float($0), count: 1024) }
    return try ModelDescription(
        layers: Array(repeating: layer, count: sinks.count), kvFormat: .bfloat16, sinks: sinks)
}
