// SPDX-License-Identifier: Apache-2.0

internal import DCPCore

/// What goes wrong, and when: drawn from the seed.
///
/// @unchecked Sendable: see `World`.
final class Faults: @unchecked Sendable {
    private unowned let simulation: Simulation
    private var isStopped = false

    init(_ simulation: Simulation) { self.simulation = simulation }

    private var world: World { simulation.world }

    func start() {
        for (kind, rate) in simulation.knobs.faults.rates where rate > 0 { schedule(kind, rate) }
        if simulation.knobs.isRoomScattered { for rank in simulation.ranks { scatter(rank, for: .max / 2) } }
    }

    func stop() { isStopped = true }

    private func schedule(_ kind: FaultKnobs.Kind, _ rate: Double) {
        // Waiting times of a Poisson process, nearly: uniform up to twice the mean.
        let wait = UInt64(Double.random(in: 0..<2, using: &world.random) / rate * 1e9)
        world.after(wait, nil, "fault") { [self] in
            guard !isStopped else { return }
            happen(kind)
            schedule(kind, rate)
        }
    }

    private func happen(_ kind: FaultKnobs.Kind) {
        let rank = simulation.ranks[world.draw(0...simulation.ranks.count - 1)]
        let downTime = world.delay(.milliseconds(10) ... .seconds(4))
        world.trace.note("fault: \(kind), \(rank.name)")
        simulation.count("\(kind)")
        switch kind {
        case .kill:
            rank.kill()
            restart(rank, downTime)
        case .powerLoss:
            rank.losePower()
            restart(rank, downTime)
        case .stop: rank.stop { [self] in restart(rank, downTime) }
        case .killCoordinator:
            world.chance(0.5) ? simulation.coordinator.kill() : simulation.coordinator.losePower()
            simulation.restart(after: .nanoseconds(downTime)) { [simulation] in simulation.coordinator.start() }
        case .pause:
            let process = someProcess()
            process.pausedUntil = max(process.pausedUntil, world.now + world.delay(.milliseconds(20) ... .seconds(8)))
        case .slow:
            let process = someProcess()
            process.slowness = UInt64(world.draw(2...200))
            world.after(world.delay(.milliseconds(200) ... .seconds(6)), nil, "fast again") { process.slowness = 1 }
        case .partition: partition(isOneWay: false)
        case .halfPartition: partition(isOneWay: true)
        case .reset:
            let (a, b) = somePair()
            simulation.network.reset(a, b, simulation.processes)
        case .bitFlip:
            // At rest: a rank reads its blocks from the disk at its first use of them after a start, and checks them then.
            rank.kill()
            if rank.disk.flipBit() { rank.hasDamage = true }
            restart(rank, downTime)
        case .tornPage:
            rank.kill()
            if rank.disk.tearPage() { rank.hasDamage = true }
            restart(rank, downTime)
        case .twin:
            rank.startTwin(
                after: world.delay(.milliseconds(200) ... .seconds(4)), for: world.delay(.seconds(1) ... .seconds(6)))
        case .restored:
            guard simulation.coordinator.isUp, !simulation.coordinator.hasOlderState else { return }
            rank.kill()
            rank.restoreOlder()
            restart(rank, downTime)
        case .lostState, .olderState:
            // Of an acknowledged open or commit that a rank has lost with its power, only the directory knows. That a
            // copy of a rank's store is an older one, it alone knows as well: an operator keeps copies away from adoption.
            guard simulation.knobs.keepsAcknowledged,
                !simulation.ranks.contains(where: { $0.hasOlderStore || $0.hasTwin })
            else { return }
            simulation.coordinator.loseState(forOlder: kind == .olderState)
            simulation.restart(after: .nanoseconds(downTime)) { [simulation] in simulation.coordinator.start() }
        case .restoredState:
            // What an older store lacks an older state does not know.
            guard simulation.knobs.keepsAcknowledged,
                !simulation.ranks.contains(where: { $0.hasOlderStore || $0.hasTwin })
            else { return }
            simulation.coordinator.restoreOlder()
            simulation.restart(after: .nanoseconds(downTime)) { [simulation] in simulation.coordinator.start() }
        case .backup: simulation.beginBackup()
        case .fullDisk:
            let time = world.delay(.milliseconds(200) ... .seconds(8))
            rank.disk.fill(until: world.now + time)
        case .scatteredRoom:
            scatter(rank, for: world.delay(.seconds(4) ... .seconds(40)))
        case .failedSync:
            let time = world.delay(.milliseconds(200) ... .seconds(8))
            rank.disk.failSyncs(until: world.now + time)
        }
    }

    private func restart(_ rank: RankNode, _ downTime: UInt64) {
        simulation.restart(after: .nanoseconds(downTime)) { rank.start() }
    }

    private func scatter(_ rank: RankNode, for time: UInt64) {
        rank.disk.scatter(until: world.now + time)
        watch(rank, until: world.now + time)
    }

    /// Counts once when blocks of a rank come to be in pieces.
    private func watch(_ rank: RankNode, until end: UInt64) {
        world.after(500_000_000, nil, "watch") { [self] in
            if rank.hasPieces { return simulation.count("store in pieces") }
            if !isStopped, world.now < end { watch(rank, until: end) }
        }
    }

    private func someProcess() -> Process {
        let all = simulation.processes
        return all[world.draw(0...all.count - 1)]
    }

    private func somePair() -> (String, String) {
        let names = [CoordinatorNode.name] + simulation.ranks.map(\.name) + simulation.clients.map(\.name)
        let first = world.draw(0...names.count - 1)
        let second = (first + world.draw(1...names.count - 1)) % names.count
        return (names[first], names[second])
    }

    private func partition(isOneWay: Bool) {
        let (a, b) = somePair()
        let paths = [SimulatedNetwork.Path(from: a, to: b)] + (isOneWay ? [] : [.init(from: b, to: a)])
        for path in paths { simulation.network.block(path) }
        world.after(world.delay(.milliseconds(50) ... .seconds(10)), nil, "heal") { [simulation] in
            for path in paths { simulation.network.heal(path) }
        }
    }
}
