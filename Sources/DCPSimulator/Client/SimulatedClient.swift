// SPDX-License-Identifier: Apache-2.0

internal import DCPClient
internal import DCPCore
internal import DCPOracle
internal import DCPTransport
internal import DCPWire
internal import NIOCore

/// A client: it runs a drawn script of steps, commits, cuts and forks (`+Script`), keeps the rules of `Cluster`
/// (`+Recovery`), compares every answer with the reference (`+Checks`), and closes some of its sequences at the end (`+End`).
/// Here are its connections and requests.
///
/// Its rules: the first failure of a request over all ranks ends it; after any failure it requests the topology if that
/// may have changed, repeats its requests to the directory until they are answered, and resumes before it continues. No
/// other client uses its sequences.
final class SimulatedClient: @unchecked Sendable {
    let name: String
    unowned let simulation: Simulation
    let process: Process
    let loop: SimulatedLoop
    private(set) var id: ClientID
    private var nextNumber: UInt64 = 1
    private(set) var coordinator: ClientConnection?
    private var ranks: [RankIndex: ClientConnection] = [:]
    var topology: Topology?
    var model: ModelRecord?
    var sequences: [ModelSequence] = []
    var forks = 0
    /// Losses of power and failed syncs that may have taken what ranks had answered.
    private(set) var losses = 0
    /// Asked of the directory and not answered: repeated until it is.
    var unanswered: DirectoryWish?
    /// Of its sequences, by name.
    var claims: [String: Claim] = [:]
    /// Script entries still to do.
    var remaining: Int
    var isFinished = false
    /// What it does, for people who ask why it does not finish.
    var doing = "starting"
    /// Raised at each failure: answers to earlier requests are ignored.
    var turn = 0
    var outages = Outages(allowance: .seconds(1_000_000))
    /// Who it was before, when that one lives on.
    private(set) var predecessor: Predecessor?
    /// It has crashed and not resumed since: of its sequences it knows what the ranks hold, and nothing else.
    var isNew = false
    private(set) var hasCrashed = false
    /// It goes on after the faults and what followed from them.
    var isSettled = false
    /// Ranks had no room for more that is not committed.
    var mustCommit = false

    /// Something that it asks the directory for, until it is answered.
    struct DirectoryWish {
        init<Item: RequestItem>(
            request: Item, done: @escaping (Item.Answer) -> Void, refused: @escaping (ServiceError) -> Void
        ) {
            self.request = { _ in AnyItem(request) }
            self.done = { done($0.answer(to: Item.self)) }
            self.refused = refused
        }

        /// Of a sequence that has to be claimed.
        init<Item: RequestItem>(
            of claimed: ModelSequence, request: @escaping (Claim) -> Item, done: @escaping (Item.Answer) -> Void,
            refused: @escaping (ServiceError) -> Void
        ) {
            self.request = { AnyItem(request($0)) }
            self.claimed = claimed
            self.done = { done($0.answer(to: Item.self)) }
            self.refused = refused
        }

        /// With the claim that it has just been given.
        var request: (Claim) -> AnyItem
        /// The sequence that is claimed first; nil when the request needs no claim.
        var claimed: ModelSequence?
        /// Whether the next client can do without knowing.
        var isForgettable = false
        /// Sent right behind it with the same claim, without waiting for its answer.
        var behind: [(request: (Claim) -> AnyItem, recorded: () -> Void)] = []
        /// Whether it was sent before.
        var isRepeated = false
        /// The first answer was that a rank is lost, and that it will be carried out when that is back.
        var recorded: () -> Void = {}
        var done: (AnyItem.Answer) -> Void
        /// A refusal for good; recovers after it.
        var refused: (ServiceError) -> Void
    }

    init(index: Int, simulation: Simulation) {
        name = "client-\(index)"
        self.simulation = simulation
        process = Process(name: name, world: simulation.world)
        loop = SimulatedLoop(process)
        id = ClientID(simulation.world.random.next() | 1)
        remaining = simulation.knobs.stepsPerClient
    }

    /// Goes on with sequences that a backup has.
    init(restoring sequences: [ModelSequence], of model: ModelRecord, name: String, simulation: Simulation) {
        self.name = name
        self.simulation = simulation
        self.sequences = sequences
        self.model = model
        process = Process(name: name, world: simulation.world)
        loop = SimulatedLoop(process)
        id = ClientID(simulation.world.random.next() | 1)
        remaining = simulation.world.draw(0...4)
        isNew = true
    }

    var world: World { simulation.world }
    var cluster: ClusterShape { simulation.knobs.shape }

    func start() {
        let first = ModelSequence(name: "\(name)-main", model: simulation.knobs.model)
        unanswered = DirectoryWish(
            request: RegisterModel(name: "model", simulation.knobs.model),
            done: { [self] registered in
                model = registered
                open(first)
            }, refused: { [self] in unexpected($0, "registering the model") })
        recover(after: nil)
    }

    private func open(_ sequence: ModelSequence) {
        unanswered = DirectoryWish(
            request: OpenSequence(
                name: sequence.name, model: "model", revision: sequence.model.revision ?? "", create: true),
            done: { [self] opened in
                sequence.record = opened.sequence
                sequences.append(sequence)
                recover(after: nil)
            }, refused: { [self] in unexpected($0, "opening \(sequence.name)") })
        askDirectory()
    }

    func finish() {
        isFinished = true
        doing = "finished"
        predecessor?.close()
        for connection in [coordinator].compactMap({ $0 }) + cluster.allRanks.compactMap({ ranks[$0] }) {
            connection.close()
        }
    }

    /// The simulation is over: pending requests get no answer.
    func abandon() {
        isFinished = true
        unanswered = nil
        predecessor = nil
        coordinator = nil
        ranks = [:]
    }

    // MARK: Requests

    func takeTag(layer: Int = 0) -> Tag {
        defer { nextNumber += 1 }
        return Tag(client: id, number: nextNumber, layer: UInt32(layer))
    }

    func connection(to rank: RankIndex) -> ClientConnection {
        if let known = ranks[rank], !known.isClosed { return known }
        let made = ClientConnection(
            .tcp(host: "rank-\(rank.value)", port: 7400), of: .rank(rank), loop: loop,
            settings: simulation.clientLink, unreachable: .rankUnavailable)
        ranks[rank] = made
        return made
    }

    func askCoordinator<R: Request>(
        _ request: R, timeout: Duration, done: @escaping (Result<R.Reply, ServiceError>) -> Void
    ) {
        askCoordinator(.request(request), timeout: timeout) { frame in
            done(frame.flatMap { frame in Result { () throws(ServiceError) in try frame.reply(to: R.self) } })
        }
    }

    /// Asks the directory for one thing.
    func askCoordinator(
        _ item: AnyItem, timeout: Duration, done: @escaping (Result<AnyItem.Answer, ServiceError>) -> Void
    ) {
        askCoordinator(item.message, timeout: timeout) { frame in done(frame.flatMap { item.answer(in: $0) }) }
    }

    private func askCoordinator(
        _ message: Message, timeout: Duration, done: @escaping (Result<Frame, ServiceError>) -> Void
    ) {
        let turn = turn
        if coordinator?.isClosed ?? true {
            coordinator = ClientConnection(
                CoordinatorNode.endpoint, of: .coordinator, loop: loop, settings: simulation.clientLink,
                unreachable: .unreachable)
        }
        let frame = Frame(epoch: topology?.epoch ?? .none, tag: takeTag(), message: message)
        coordinator!.request(frame, timeout: timeout) { [self] result in
            noteTimeout(result, message)
            guard turn == self.turn, !isFinished else { return }
            done(result)
        }
    }

    /// Takes another identity, and closes all connections, unless who it was lives on with them.
    func becomeAnother() {
        coordinator?.close()
        predecessor?.close()
        predecessor = world.chance(0.5) ? Predecessor(of: self, connections: ranks, nextNumber: nextNumber) : nil
        if predecessor == nil { for rank in cluster.allRanks { ranks[rank]?.close() } }
        isNew = true
        hasCrashed = true
        coordinator = nil
        ranks = [:]
        // What it had asked for may be carried out or not, but not after its successor has resumed.
        if unanswered?.isForgettable ?? false { unanswered = nil }
        id = ClientID(world.random.next() | 1)
    }

    /// A rank has lost what it wrote after `time`.
    func lostUnsynced(after time: UInt64) {
        losses += 1
        for sequence in sequences { sequence.forgive(after: time) }
    }

    /// It has resumed: who it was goes on from here, in vain.
    func resumed() {
        isNew = false
        predecessor?.goOn()
        predecessor = nil
    }

    /// Asks all ranks the same.
    func askRanks<R: Request>(
        _ request: R, timeout: Duration, each: @escaping (RankIndex, Frame, R.Reply) -> Void = { _, _, _ in },
        done: @escaping (Result<[RankIndex: R.Reply], ServiceError>) -> Void
    ) {
        askRanks(
            Dictionary(uniqueKeysWithValues: cluster.allRanks.map { ($0, request) }), tag: takeTag(), timeout: timeout,
            each: each, done: done)
    }

    /// Asks all ranks, each in its own order of arrival; the first failure is the outcome.
    /// - Parameter each: sees every answer, also those that come after a failure.
    func askRanks<R: Request>(
        _ requests: [RankIndex: R], tag: Tag, timeout: Duration,
        each: @escaping (RankIndex, Frame, R.Reply) -> Void = { _, _, _ in },
        done: @escaping (Result<[RankIndex: R.Reply], ServiceError>) -> Void
    ) {
        guard let topology else { preconditionFailure("no topology") }
        let turn = turn
        let sent = world.now
        var answers: [RankIndex: R.Reply] = [:]
        var isDone = false
        // Not every client sends in the order of ranks.
        for rank in cluster.allRanks.shuffled(using: &world.random) {
            let message = Message.request(requests[rank]!)
            let frame = Frame(epoch: topology.epoch, tag: tag, message: message)
            let connection = connection(to: rank)
            connection.request(frame, timeout: timeout) { [self] result in
                noteTimeout(result, message)
                let reply = result.flatMap { frame in
                    Result { () throws(ServiceError) in (frame, try frame.reply(to: R.self)) }
                }
                if case .success((let frame, let reply)) = reply {
                    simulation.count("\(R.type.reply)")
                    simulation.answered(rank, frame, asked: topology.epoch, at: sent)
                    each(rank, frame, reply)
                }
                guard turn == self.turn, !isDone, !isFinished else { return }
                switch reply {
                case .success((_, let reply)):
                    answers[rank] = reply
                    guard answers.count == requests.count else { return }
                    isDone = true
                    done(.success(answers))
                case .failure(let error):
                    isDone = true
                    done(.failure(error))
                }
            }
            // A request that is sent twice: the ranks answer once, or twice alike.
            if world.chance(0.03) { connection.send(frame) }
        }
    }
}
