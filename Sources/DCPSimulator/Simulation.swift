// SPDX-License-Identifier: Apache-2.0

package import DCPCore
internal import DCPStore
internal import DCPTransport
internal import DCPWire
internal import NIOCore

/// A rule of the system that a history broke. The article *Simulation* states each.
public struct Violation: Error, Sendable {
    public enum Rule: String, Sendable, CaseIterable {
        /// No acknowledged commit is lost.
        case lostCommit = "lost commit"
        /// No rank has committed more than a client requested.
        case inventedCommit = "invented commit"
        /// Every answered step equals the reference.
        case wrongAnswer = "wrong answer"
        /// An answered step's tokens are in place: they can be committed.
        case answeredNotInPlace = "answered, not in place"
        /// No step is applied twice, or after it was rolled back.
        case appliedTwice = "applied twice"
        /// A client that resumes a sequence finds all its layers at one length.
        case layersApart = "layers apart"
        /// Nothing is answered to a client after another has resumed its sequence.
        case overruledClaim = "overruled claim"
        /// No two epochs serve at once.
        case twoEpochs = "two epochs"
        /// Every wait ends.
        case endlessWait = "endless wait"
        /// No request is refused for good that is right.
        case wrongRefusal = "wrong refusal"
        /// A daemon starts again after whatever happened to it.
        case refusedStart = "refused start"
        /// No match promises a token that a rank lacks, or that has another id; what is committed is found.
        case wrongPrefix = "wrong prefix"
        /// A decode step's computations come before a prefill's, and neither waits for ever.
        case unfairTurns = "unfair turns"
        /// Nothing stays in a store that no sequence refers to.
        case leftover = "leftover"
    }

    public var rule: Rule
    public var message: String
}

/// What one seed came to.
public struct Outcome: Sendable {
    public var seed: UInt64
    public var steps: Int
    public var traceHash: UInt64
    public var events: Int
    public var simulatedSeconds: Double
    public var violation: Violation?
    /// How often what happened, for those who wonder whether enough does.
    public var counts: [String: Int]
}

/// One seed's history: a coordinator, W ranks and clients on one thread, and what happens to them.
///
/// First the faults that the seed draws, then calm: everything that is down is started, partitions heal, and every client
/// must come to its end.
public final class Simulation: @unchecked Sendable {
    let world: World
    let knobs: Knobs
    let network: SimulatedNetwork
    let directory: String
    /// Of the ranks, when they are to break a rule.
    let sabotage: Sabotage?
    private let seed: UInt64
    private let steps: Int
    private(set) var isCalm = false
    private(set) var coordinator: CoordinatorNode!
    private(set) var ranks: [RankNode] = []
    private(set) var clients: [SimulatedClient] = []
    /// Those of before the cluster was restored.
    private var retired: [SimulatedClient] = []
    /// The last is being taken, unless it is over.
    private var backups: [SimulatedBackup] = []
    private var wholeBackup: SimulatedBackup?
    private var violation: Violation?
    private var counts: [String: Int] = [:]
    private var calmTime: UInt64 = 0
    private var epoch = Epoch.none
    /// The highest epoch each rank has answered in, and when the client had the answer; rising.
    private var answers: [RankIndex: [(time: UInt64, epoch: Epoch)]] = [:]

    private static let faultSeconds = 40
    private static let calmSeconds = 180
    /// After the faults: processes start, copies of stores end, ranks join.
    private static let settlingSeconds = 20
    /// Longer than a connection stalls before it is given up, so that only what nobody notices takes as long.
    private static let calmTimeout = Duration.seconds(8)
    private static let deletionSeconds = 60

    /// - Parameters:
    ///   - steps: script entries over all clients.
    ///   - directory: where the stores are made; removed by the caller.
    ///   - canary: a rule that the ranks break.
    package init(
        seed: UInt64, steps: Int, directory: String, canary: BrokenRule? = nil, trace: Trace = Trace()
    ) throws(ServiceError) {
        self.seed = seed
        self.steps = steps
        self.directory = directory
        knobs = try Knobs(seed: seed, steps: steps)
        sabotage = canary.map { [shape = knobs.shape] in Sabotage($0, of: shape) }
        world = World(seed: seed, trace: trace)
        network = SimulatedNetwork(world: world, knobs: knobs.network)
    }

    package func run() -> Outcome {
        world.trace.note("\(knobs)")
        coordinator = CoordinatorNode(simulation: self)
        ranks = knobs.shape.allRanks.map { RankNode($0, simulation: self) }
        clients = (0..<knobs.clients).map { SimulatedClient(index: $0, simulation: self) }
        coordinator.start()
        for rank in ranks { world.after(world.delay(.zero ... .milliseconds(500)), nil, "boot") { rank.start() } }
        for client in clients {
            world.after(world.delay(.zero ... .seconds(1)), nil, "client") { client.start() }
        }
        if knobs.model.kinds.count > 1 { count("models of several kinds") }
        let faults = Faults(self)
        faults.start()
        let start = world.now
        run(until: start + UInt64(Self.faultSeconds) * 1_000_000_000) {
            self.clients.allSatisfy { $0.isFinished || $0.remaining == 0 }
        }
        if violation == nil {
            faults.stop()
            calmDown()
            runToTheEnd()
        }
        if violation == nil, knobs.isRestored, let wholeBackup { restore(wholeBackup) }
        for rank in ranks { count("spilled blocks", rank.blocksSpilled) }
        let outcome = Outcome(
            seed: seed, steps: steps, traceHash: world.trace.hash, events: world.eventCount,
            simulatedSeconds: Double(world.now - start) / 1e9, violation: violation, counts: counts)
        tearDown()
        return outcome
    }

    /// Nothing goes wrong any more: every client comes to its end, and the stores are as they should be.
    private func runToTheEnd() {
        run(until: calmTime + UInt64(Self.calmSeconds) * 1_000_000_000) { self.clients.allSatisfy(\.isFinished) }
        for client in clients where !client.isFinished && violation == nil {
            violate(
                .endlessWait, "\(client.name) is still \(client.doing), \(Self.calmSeconds) s after the last fault")
        }
        if violation == nil { verifyStores() }
    }

    // MARK: Backups

    func beginBackup() {
        guard backups.last?.isOver ?? true else { return }
        let backup = SimulatedBackup(simulation: self)
        backups.append(backup)
        backup.start()
    }

    func took(_ backup: SimulatedBackup) {
        count("backups")
        world.trace.note("a backup is whole")
        wholeBackup = backup
    }

    /// Puts a backup in the place of everything. Its sequences go on from there, and nothing of what came after is left.
    private func restore(_ backup: SimulatedBackup) {
        world.trace.note("the backup is restored")
        count("restored backups")
        for rank in ranks { rank.kill() }
        coordinator.kill()
        (epoch, answers, calmTime) = (.none, [:], world.now)
        coordinator.restore(backup.bytes(of: CoordinatorNode.name))
        for rank in ranks { rank.restore(backup.bytes(of: rank.name)) }
        retired += clients
        clients = backup.promised.enumerated().map { index, promised in
            SimulatedClient(
                restoring: promised.sequences, of: promised.model, name: "restored-\(index)", simulation: self)
        }
        for client in clients { world.after(0, nil, "client") { client.recover(after: nil) } }
        runToTheEnd()
    }

    private func run(until deadline: UInt64, isDone: () -> Bool) {
        while violation == nil, !isDone(), world.step(until: deadline) {}
    }

    /// All is done, and what was closed is deleted: a store holds what its sequences refer to, and nothing else.
    private func verifyStores() {
        run(until: world.now + UInt64(Self.deletionSeconds) * 1_000_000_000) { self.ranks.allSatisfy(\.isQuiet) }
        for rank in ranks where violation == nil {
            guard rank.isQuiet else {
                return violate(
                    .endlessWait, "\(rank.name) still deletes, \(Self.deletionSeconds) s after the last close")
            }
            do throws(ServiceError) {
                let findings = try rank.verify()
                if let leftover = findings.first(where: { !$0.kind.isDamage }) {
                    violate(.leftover, leftover.message)
                } else if !rank.hasDamage, let damage = findings.first {
                    violate(.lostCommit, damage.message)
                }
            } catch {
                violate(.wrongRefusal, "\(rank.name) cannot be verified: \(error)")
            }
        }
    }

    private func calmDown() {
        world.trace.note("calm")
        isCalm = true
        calmTime = world.now
        network.isCalm = true
        network.healAll()
        for client in clients { client.remaining = min(client.remaining, 3) }
        if !coordinator.isUp { coordinator.start() }
        for rank in ranks {
            rank.disk.heal()
            if !rank.isUp { rank.start() }
        }
        for process in processes {
            process.pausedUntil = world.now
            process.slowness = 1
        }
    }

    /// Nothing goes wrong any more, and what had gone wrong is over.
    var isSettled: Bool { isCalm && world.now > calmTime + UInt64(Self.settlingSeconds) * 1_000_000_000 }

    /// Among faults a client may give up early. Afterwards a request that is not answered in time hangs.
    var stepTimeout: Duration { isCalm ? Self.calmTimeout : knobs.stepTimeout }
    var requestTimeout: Duration { isCalm ? Self.calmTimeout : knobs.requestTimeout }

    /// Those that live, in a fixed order.
    var processes: [Process] {
        [coordinator.process].compactMap { $0 } + ranks.compactMap(\.process) + clients.map(\.process)
    }

    private func tearDown() {
        let all = retired + clients
        for client in all {
            client.process.die()
            client.abandon()
        }
        for rank in ranks { rank.kill() }
        coordinator.kill()
        for backup in backups { backup.abandon() }
        for client in all { _ = network.died(client.process, withMachine: true) }
        network.dropEverything()
        world.dropEverything()
    }

    var clientLink: LinkSettings {
        LinkSettings(handshakeTimeout: .seconds(2), stallTimeout: .seconds(6), network: network)
    }

    // MARK: What is noticed

    /// Whether a stored block of some rank has been damaged.
    var hasDamage: Bool { ranks.contains(where: \.hasDamage) }

    /// The first counts: what follows a broken rule proves nothing.
    func violate(_ rule: Violation.Rule, _ message: String) {
        world.trace.note("VIOLATION \(rule.rawValue): \(message)")
        if violation == nil { violation = Violation(rule: rule, message: message) }
    }

    func count(_ what: String, _ times: Int = 1) {
        if times > 0 { counts[what, default: 0] += times }
    }

    func count(stepOver layer: LayerAttention) {
        if layer.visibility != .all { count("steps with a window") }
        if layer.hasSinks { count("steps with sinks") }
        if layer.ownValueDim == 0 { count("steps with values of the keys") }
    }

    func began(_ epoch: Epoch) {
        count("epochs")
        guard epoch > self.epoch else {
            return violate(.twoEpochs, "the coordinator begins \(epoch) after \(self.epoch)")
        }
        self.epoch = epoch
    }

    /// A rank's answer has come to a client that had asked at `sent`, in the epoch `asked`.
    func answered(_ rank: RankIndex, _ frame: Frame, asked: Epoch, at sent: UInt64) {
        guard case .reply(let body) = frame.message else { return }
        switch body.type {
        case StepRequest.type.reply:
            guard frame.epoch == asked else {
                return violate(
                    .twoEpochs, "\(rank) answered a step of \(asked) in \(frame.epoch): \(frame.tag)")
            }
        case Commit.type.reply, CutUncommitted.type.reply:
            guard frame.epoch >= asked else {
                return violate(.twoEpochs, "\(rank) answered a request of \(asked) in \(frame.epoch): \(frame.tag)")
            }
        default: return
        }
        if let later = answers[rank]?.last(where: { $0.time < sent && $0.epoch > frame.epoch }) {
            violate(
                .twoEpochs,
                "\(rank) had answered in \(later.epoch), and now answers \(frame.tag), sent after that, in \(frame.epoch)"
            )
        }
        if frame.epoch > answers[rank]?.last?.epoch ?? .none {
            answers[rank, default: []].append((world.now, frame.epoch))
        }
    }

    /// The coordinator's state is lost, including the number of an epoch that perhaps no rank has served.
    func lostDirectory() { epoch = answers.values.compactMap(\.last?.epoch).max() ?? .none }

    func timedOut(_ client: String, _ request: String) {
        count("timeouts")
        guard isSettled else { return }
        violate(.endlessWait, "\(client) had no answer to a \(request), and nothing is wrong any more")
    }

    func fatal(_ rank: RankNode, _ error: ServiceError) {
        count("fatal")
        if !rank.hasDamage, !isAwaitingRestart(error) { violate(.refusedStart, "\(rank.name) ends: \(error)") }
    }

    /// What the rank had not synced is not promised any more.
    func lostUnsynced(_ rank: RankIndex) {
        guard knobs.durability != .always else { return }
        let synced = ranks[Int(rank.value)].disk.syncTime
        for client in clients { client.lostUnsynced(after: synced) }
    }

    /// Whether an error says that a sync of a rank's store has failed, so that it waits to be started again.
    func isAwaitingRestart(_ error: ServiceError) -> Bool {
        error.code == .storeDamaged && error.message.contains("nothing more is written")
            && counts["\(FaultKnobs.Kind.failedSync)"] != nil
    }

    /// May kill a rank soon: messages in flight to it are then owed at its next join.
    func mayKillSoon() {
        guard !isCalm, knobs.faults.rates.contains(where: { $0.kind == .kill && $0.rate > 0 }), world.chance(0.5)
        else { return }
        let rank = ranks[world.draw(0...ranks.count - 1)]
        world.after(world.delay(.zero ... .milliseconds(50)), nil, "kill soon") { [self] in
            guard !isCalm, rank.isUp else { return }
            world.trace.note("\(rank.name) is killed in the middle of it")
            count("kill soon")
            rank.kill()
            restart(after: .milliseconds(200)) { rank.start() }
        }
    }

    func restart(after delay: Duration, _ start: @escaping () -> Void) {
        world.after(delay.nanoseconds, nil, "restart", start)
    }
}
