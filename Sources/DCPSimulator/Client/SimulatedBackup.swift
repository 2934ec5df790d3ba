// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPTransport
internal import DCPWire

/// A backup as `dcpctl backup` takes it: all daemons hold their stores, and each is read through a separate connection.
///
/// It must contain everything acknowledged to clients before it was requested. Clients keep running until it is
/// answered; it may contain what they have sent by then, and nothing else. A sequence that was cut or rolled back in
/// between has two histories, and the backup may have either: it is not compared.
final class SimulatedBackup: @unchecked Sendable {
    private unowned let simulation: Simulation
    private let process: Process
    private let loop: SimulatedLoop
    private let id: ClientID
    private var nextNumber: UInt64 = 1
    private var connections: [ClientConnection] = []
    private var files: [String: [UInt8]] = [:]
    private var finished: Set<String> = []
    private(set) var isOver = false
    /// When it was asked for.
    private var before: [(client: SimulatedClient, sequences: [(sequence: ModelSequence, floor: Int, cuts: Int)])] = []
    private var attempts = 0
    /// What it must have, of which client.
    private(set) var promised: [(sequences: [ModelSequence], model: ModelRecord)] = []

    static let name = "backup"
    private static let timeout = Duration.seconds(20)
    private static let attemptsMax = 50

    init(simulation: Simulation) {
        self.simulation = simulation
        process = Process(name: Self.name, world: simulation.world)
        loop = SimulatedLoop(process)
        id = ClientID(simulation.world.random.next() | 1)
    }

    func start() {
        attempts += 1
        before = simulation.clients.map { client in (client, client.sequences.map { ($0, $0.floor, $0.cuts) }) }
        let coordinator = connect(to: CoordinatorNode.endpoint, .coordinator)
        let item = AnyItem(BeginCopy(waitMilliseconds: UInt32(simulation.world.draw(100...10_000))))
        ask(item.message, coordinator) { [self] frame in
            guard case .success(let answer) = frame.flatMap({ item.answer(in: $0) }) else {
                coordinator.close()
                return tryAgain()
            }
            let number = answer.answer(to: BeginCopy.self).number
            notePromises()
            read(CoordinatorNode.name, coordinator, number)
            for rank in simulation.ranks { read(rank.name, connect(to: rank.endpoint, .rank(rank.rank)), number) }
        }
    }

    func bytes(of daemon: String) -> [UInt8] { files[daemon]! }

    private func connect(to endpoint: Endpoint, _ role: CertificateRole) -> ClientConnection {
        let connection = ClientConnection(
            endpoint, of: role, loop: loop, settings: simulation.clientLink, unreachable: .unreachable)
        connections.append(connection)
        return connection
    }

    /// The cluster was not ready, or whatever the faults do to a request.
    private func tryAgain() {
        guard attempts < Self.attemptsMax, !simulation.isCalm else { return end() }
        let world = simulation.world
        world.after(world.delay(.milliseconds(50) ... .seconds(1)), process, "backup again") { [self] in start() }
    }

    private func ask(
        _ message: Message, _ connection: ClientConnection, done: @escaping (Result<Frame, ServiceError>) -> Void
    ) {
        let tag = Tag(client: id, number: nextNumber)
        nextNumber += 1
        connection.request(Frame(epoch: .none, tag: tag, message: message), timeout: Self.timeout) { [self] result in
            if !isOver { done(result) }
        }
    }

    private func notePromises() {
        for (client, sequences) in before {
            guard let model = client.model else { continue }
            let kept = sequences.filter { known in
                known.cuts == known.sequence.cuts && client.sequences.contains { $0 === known.sequence }
            }
            guard !kept.isEmpty else { continue }
            let copies = kept.map { known in
                ModelSequence(
                    copy: known.sequence, floor: min(known.floor, known.sequence.floor), at: simulation.world.now)
            }
            promised.append((copies, model))
        }
    }

    private func read(_ daemon: String, _ connection: ClientConnection, _ number: UInt64, from page: Int = 0) {
        ask(.request(ReadCopy(number: number, page: page)), connection) { [self] frame in
            guard let part = try? frame.get().reply(to: ReadCopy.self).pages else { return end() }
            var bytes = files[daemon] ?? [UInt8](repeating: 0, count: part.pages * part.pageByteCount)
            files[daemon] = nil
            var start = 0
            for run in part.runs {
                let count = run.count * part.pageByteCount
                let place = run.lowerBound * part.pageByteCount
                bytes.replaceSubrange(place..<place + count, with: part.bytes[start..<start + count])
                start += count
            }
            files[daemon] = bytes
            guard part.next == part.pages else { return read(daemon, connection, number, from: part.next) }
            ask(.request(EndCopy(number: number)), connection) { [self] _ in
                connection.close()
                finished.insert(daemon)
                guard finished.count == simulation.ranks.count + 1 else { return }
                simulation.took(self)
                end()
            }
        }
    }

    /// It has been taken, or something has failed.
    private func end() {
        isOver = true
        for connection in connections { connection.close() }
        connections = []
    }

    /// The simulation is over.
    func abandon() {
        end()
        process.die()
        _ = simulation.network.died(process, withMachine: true)
    }
}
