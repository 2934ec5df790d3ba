internal import DCPCore
internal import DCPTestKit
internal import DCPTransport
internal import DCPWire
internal import NIOCore

/// A client: it runs a drawn script of steps, commits, cuts and forks, keeps the rules of `Cluster`, and compares every
/// answer with the reference.
///
/// Its rules: the first failure of a request over all ranks ends it; after any failure it asks for the topology, repeats
/// what it had asked of the directory until that is answered, and resumes (status, rewind, status) before it goes on.
/// Nobody else uses its sequences.
final class SimulatedClient: @unchecked Sendable {
    let name: String
    unowned let simulation: Simulation
    let process: Process
    let loop: SimulatedLoop
    private(set) var id: ClientID
    private var nextNumber: UInt64 = 1
    private var coordinator: ClientConnection?
    private var ranks: [RankIndex: ClientConnection] = [:]
    var topology: Topology?
    var model: ModelRecord?
    var sequences: [ModelSequence] = []
    var forks = 0
    /// Losses of power that may have taken what ranks had answered.
    private(set) var powerLosses = 0
    /// Asked of the directory and not answered: repeated until it is.
    var unanswered: DirectoryWish?
    /// Script entries still to do.
    var remaining: Int
    private(set) var isFinished = false
    /// What it does, for people who ask why it does not finish.
    var doing = "starting"
    /// Raised at each failure: what was asked before it no longer matters.
    private(set) var turn = 0

    struct DirectoryWish {
        var request: DirectoryRequest
        /// With the records of the reply.
        var done: (DirectoryReply) -> Void
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

    var world: World { simulation.world }
    var cluster: ClusterShape { simulation.knobs.shape }

    func start() {
        let first = ModelSequence(name: "\(name)-main", shape: simulation.knobs.model)
        unanswered = DirectoryWish(
            request: .registerModel(name: "model", shape: simulation.knobs.model),
            done: { [self] reply in
                model = reply.models.first
                open(first)
            }, refused: { [self] in unexpected($0, "registering the model") })
        recover(after: nil)
    }

    private func open(_ sequence: ModelSequence) {
        unanswered = DirectoryWish(
            request: .openSequence(name: sequence.name, model: "model", create: true),
            done: { [self] reply in
                sequence.record = reply.sequences.first
                sequences.append(sequence)
                recover(after: nil)
            }, refused: { [self] in unexpected($0, "opening \(sequence.name)") })
        askDirectory()
    }

    func finish() {
        isFinished = true
        doing = "finished"
        for connection in [coordinator].compactMap({ $0 }) + cluster.allRanks.compactMap({ ranks[$0] }) {
            connection.close()
        }
    }

    /// A refusal that no fault explains.
    func unexpected(_ error: ServiceError, _ what: String) {
        simulation.violate(.wrongRefusal, "\(name), \(what): \(error)")
        isFinished = true
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

    func askCoordinator(_ message: Message, timeout: Duration, done: @escaping (Result<Message, ServiceError>) -> Void)
    {
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
            done(result.map(\.message))
        }
    }

    /// A rank has lost what it wrote after `time`.
    func lostPower(after time: UInt64) {
        powerLosses += 1
        for sequence in sequences { sequence.forgive(after: time) }
    }

    /// Asks all ranks, each in its own order of arrival; the first failure is the outcome.
    /// - Parameter each: sees every answer, also those that come after a failure.
    func askRanks(
        _ messages: [RankIndex: Message], tag: Tag, timeout: Duration,
        each: @escaping (RankIndex, Frame) -> Void = { _, _ in },
        done: @escaping (Result<[RankIndex: Message], ServiceError>) -> Void
    ) {
        guard let topology else { preconditionFailure("no topology") }
        let turn = turn
        let sent = world.now
        var answers: [RankIndex: Message] = [:]
        var isDone = false
        // Not every client sends in the order of ranks.
        for rank in cluster.allRanks.shuffled(using: &world.random) {
            let message = messages[rank]!
            let frame = Frame(epoch: topology.epoch, tag: tag, message: message)
            let connection = connection(to: rank)
            connection.request(frame, timeout: timeout) { [self] result in
                noteTimeout(result, message)
                if case .success(let frame) = result {
                    simulation.answered(rank, frame, asked: topology.epoch, at: sent)
                    each(rank, frame)
                }
                guard turn == self.turn, !isDone, !isFinished else { return }
                switch result {
                case .success(let frame):
                    answers[rank] = frame.message
                    guard answers.count == messages.count else { return }
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

    /// When all faults are over every request is answered in time.
    private func noteTimeout(_ result: Result<Frame, ServiceError>, _ message: Message) {
        guard case .failure(let error) = result, error.code == .deadlineExceeded, error.rank == nil else { return }
        simulation.timedOut(name, "\(message.type)")
    }

    // MARK: Recovery

    /// Forgets the connections, as a client that is started again would; its sequences live on in the ranks.
    func crash() {
        world.trace.note("\(name) drops its connections and is another client from here on")
        turn += 1
        coordinator?.close()
        for rank in cluster.allRanks { ranks[rank]?.close() }
        coordinator = nil
        ranks = [:]
        id = ClientID(world.random.next() | 1)
        recover(after: nil)
    }

    /// Begins again with the topology; `error` is why.
    func recover(after error: ServiceError?) {
        turn += 1
        doing = "recovering after \(error.map { "\($0)" } ?? "nothing")"
        if let error { world.trace.note("\(name) recovers after \(error)") }
        let turn = turn
        world.after(error == nil ? 0 : world.delay(.milliseconds(5) ... .milliseconds(300)), process, "recover") {
            [self] in
            guard turn == self.turn, !isFinished else { return }
            askCoordinator(
                .topologyRequest(waitMilliseconds: 1000), timeout: .seconds(1) + simulation.knobs.requestTimeout
            ) { [self] result in
                switch result {
                case .success(.topology(let topology)) where topology.phase == .ready:
                    self.topology = topology
                    askDirectory()
                case .success(.topology(let topology)):
                    recover(after: ServiceError(.notReady, topology.reason))
                case .success(let other):
                    unexpected(ServiceError(.internal, "\(other.type)"), "asking for the topology")
                case .failure(let error): recover(after: error)
                }
            }
        }
    }

    /// Repeats what the directory has not answered; then resumes.
    func askDirectory() {
        guard let wish = unanswered else { return resume(rounds: 0) }
        doing = "asking the directory for \(wish.request)"
        askCoordinator(.directoryRequest(wish.request), timeout: simulation.knobs.requestTimeout) { [self] result in
            switch result {
            case .success(.directoryReply(let reply)):
                unanswered = nil
                wish.done(reply)
            case .success(let other): unexpected(ServiceError(.internal, "\(other.type)"), doing)
            case .failure(let error) where error.isRetryable: recover(after: error)
            case .failure(let error):
                unanswered = nil
                wish.refused(error)
            }
        }
    }

    // MARK: Resuming

    /// Makes the ranks agree, checks what they hold, and takes their lengths over.
    func resume(rounds: Int) {
        doing = "resuming"
        guard rounds < 4 else { return recover(after: ServiceError(.conflict, "The lengths do not settle.")) }
        statuses { [self] first in
            guard check(first) else { return }
            rewind(sequences, first) { [self] in
                statuses { [self] second in
                    guard check(second) else { return }
                    let agree = sequences.allSatisfy { sequence in
                        Set(cluster.allRanks.map { second[$0]![sequence.record!.id]!.layerLengths }).count == 1
                    }
                    guard agree else { return resume(rounds: rounds + 1) }
                    for sequence in sequences {
                        let lengths = second[RankIndex(0)]![sequence.record!.id]!.layerLengths
                        for (layer, length) in lengths.enumerated() { sequence.cut(layer, to: length) }
                    }
                    next()
                }
            }
        }
    }

    private typealias Statuses = [RankIndex: [SequenceID: SequenceStatus]]

    private func statuses(done: @escaping (Statuses) -> Void) {
        let epoch = topology!.epoch
        var isCurrent = true
        let ids = sequences.compactMap { $0.record?.id }
        let message = Message.sequenceStatusRequest(ids)
        askRanks(
            Dictionary(uniqueKeysWithValues: cluster.allRanks.map { ($0, message) }), tag: takeTag(),
            timeout: simulation.knobs.requestTimeout,
            each: { _, frame in isCurrent = isCurrent && frame.epoch == epoch }
        ) { [self] result in
            switch result {
            case .success where !isCurrent:
                // A status is answered in any epoch. Only in the client's own do the lengths have to be what it knows.
                recover(after: ServiceError(.staleEpoch, "The membership changed meanwhile."))
            case .success(let answers):
                done(
                    answers.mapValues { answer in
                        guard case .sequenceStatus(let statuses) = answer else { return [:] }
                        return Dictionary(uniqueKeysWithValues: statuses.map { ($0.sequence, $0) })
                    })
            case .failure(let error): failed(error)
            }
        }
    }

    /// Whether what the ranks hold is what they may hold.
    private func check(_ statuses: Statuses) -> Bool {
        for sequence in sequences {
            for rank in cluster.allRanks {
                guard let status = statuses[rank]![sequence.record!.id] else {
                    simulation.violate(.lostCommit, "\(rank) has no \(sequence.name), which is open")
                    return false
                }
                world.trace.note(
                    "\(name): \(rank) has \(sequence.name) committed \(status.committedLength), layers "
                        + "\(status.layerLengths)")
                guard status.committedLength >= sequence.floor else {
                    simulation.violate(
                        .lostCommit,
                        "\(rank) has \(status.committedLength) committed tokens of \(sequence.name), of which "
                            + "\(sequence.floor) were acknowledged")
                    return false
                }
                guard status.committedLength <= sequence.askedLength else {
                    simulation.violate(
                        .inventedCommit,
                        "\(rank) has \(status.committedLength) committed tokens of \(sequence.name), of which "
                            + "\(sequence.askedLength) were asked to be")
                    return false
                }
                for (layer, length) in status.layerLengths.enumerated()
                where (length > sequence.layers[layer].count && !sequence.mayBeLonger)
                    || length < status.committedLength
                {
                    simulation.violate(
                        .appliedTwice,
                        "\(rank) has \(length) tokens in layer \(layer) of \(sequence.name), of which "
                            + "\(sequence.layers[layer].count) were sent and \(status.committedLength) are committed")
                    return false
                }
            }
        }
        return true
    }

    private func rewind(_ rest: [ModelSequence], _ statuses: Statuses, done: @escaping () -> Void) {
        guard let sequence = rest.first else { return done() }
        let id = sequence.record!.id
        let all = cluster.allRanks.map { statuses[$0]![id]! }
        // No more than what it knows of: late steps may have been appended behind a cut.
        let lengths = sequence.layers.indices.map { layer in
            min(all.map { $0.layerLengths[layer] }.min()!, max(sequence.layers[layer].count, all[0].committedLength))
        }
        let message = Message.rewind(id, layerLengths: lengths)
        askRanks(
            Dictionary(uniqueKeysWithValues: cluster.allRanks.map { ($0, message) }), tag: takeTag(),
            timeout: simulation.knobs.requestTimeout
        ) { [self] result in
            switch result {
            case .success:
                sequence.mayBeLonger = false
                rewind(Array(rest.dropFirst()), statuses, done: done)
            case .failure(let error) where error.code == .invalidRequest || error.code == .positionMismatch:
                // A rank has committed more than another has: only a cut takes that back.
                truncate(sequence, to: all.map(\.committedLength).min()!)
            case .failure(let error): failed(error)
            }
        }
    }

    /// Goes on after a failure of a request to the ranks.
    func failed(_ error: ServiceError) {
        if error.code == .storeDamaged {
            guard simulation.hasDamage else { return unexpected(error, doing) }
            turn += 1
            for sequence in sequences { sequence.mayBeLonger = true }
            // The ranks name a position; which sequence it is of only the words tell, so all are given up that far.
            if let sequence = sequences.first(where: {
                error.message.contains("\($0.record!.id) ") || error.message.contains("\($0.record!.id);")
            }) ?? sequences.first {
                return truncate(sequence, to: world.chance(0.5) ? Self.position(in: error.message) ?? 0 : 0)
            }
        }
        recover(after: error)
    }

    /// "truncate the sequence to 48 tokens".
    private static func position(in message: String) -> Int? {
        guard let range = message.firstRange(of: "truncate the sequence to ") else { return nil }
        return Int(message[range.upperBound...].prefix { $0.isNumber })
    }
}
