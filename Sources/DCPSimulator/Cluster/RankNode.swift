internal import DCPCache
internal import DCPCore
internal import DCPRank
internal import DCPStore
internal import DCPTestKit
internal import DCPTransport
internal import NIOCore

/// A machine that runs one rank, again and again: `RankServer` and `ShardCache` as the daemon has them.
final class RankNode: @unchecked Sendable {
    let rank: RankIndex
    let disk: SimulatedDisk
    private unowned let simulation: Simulation
    private(set) var process: Process?
    private var server: RankServer?
    private var cache: ShardCache?
    /// Connections that a loss of power has left open at their other ends.
    private var dangling: [SimulatedChannel] = []
    private var starts = 0

    init(_ rank: RankIndex, simulation: Simulation) {
        self.rank = rank
        self.simulation = simulation
        disk = SimulatedDisk(directory: simulation.directory + "/rank-\(rank.value)", world: simulation.world)
    }

    var name: String { "rank-\(rank.value)" }
    var endpoint: Endpoint { .tcp(host: name, port: 7400) }
    var isUp: Bool { process != nil }

    func start() {
        guard process == nil else { return }
        let world = simulation.world
        let knobs = simulation.knobs
        let process = Process(name: name, world: world)
        self.process = process
        simulation.network.tellPeers(of: dangling)
        dangling = []
        starts += 1
        if disk.hasLostWrites {
            disk.dropCache(knobs.durability)
            simulation.lostUnsynced(rank)
        }
        var settings = ShardCache.Settings(mapByteCountMax: 64 << 20, durability: knobs.durability)
        settings.writerHost = DiskHost(disk, process, latencyMax: knobs.diskLatencyMax)
        settings.faults = disk.faults
        settings.queueDepthMax = knobs.queueDepthMax
        settings.newStoreID = StoreID(high: world.random.next() | 1, low: world.random.next())
        do throws(ServiceError) {
            let isNew = starts == 1
            let cache = try ShardCache.open(
                directory: disk.directory, rank: rank, cluster: knobs.shape, settings: settings)
            if isNew { disk.sync() }
            self.cache = cache
            let loop = SimulatedLoop(process)
            let pool = ComputePool(threads: knobs.threads) { job in
                world.after(
                    world.delay(.microseconds(5) ... .milliseconds(2)) * process.slowness, process, "compute", job)
            }
            var configuration = RankConfiguration(
                rank: rank, listen: endpoint, coordinator: CoordinatorNode.endpoint, threads: knobs.threads)
            configuration.stepsInFlightMax = knobs.stepsInFlightMax
            configuration.earlyByteCountMax = knobs.earlyByteCountMax
            configuration.drainTimeout = .seconds(2)
            configuration.claimTimeout = .seconds(3)
            configuration.stepTimeoutMax = .seconds(20)
            configuration.link.network = simulation.network
            configuration.link.handshakeTimeout = .seconds(2)
            configuration.link.stallTimeout = .seconds(6)
            configuration.broken = simulation.canary
            let server = RankServer(
                configuration, cluster: knobs.shape, cache: cache, pool: pool, eventLoop: loop
            ) { [weak self] event in self?.observe(event, of: process) }
            self.server = server
            world.after(0, process, "start") { _ = server.start() }
        } catch {
            // A store in which a sync had failed has to be synced before it serves.
            guard disk.isFailingSyncs else {
                return simulation.violate(.refusedStart, "\(name) does not start: \(error)")
            }
            kill()
            simulation.restart(after: .milliseconds(300)) { self.start() }
        }
    }

    private func observe(_ event: RankEvent, of process: Process) {
        simulation.world.trace.note("\(name): \(event)")
        guard self.process === process else { return }
        switch event {
        case .fatal(let error):
            simulation.fatal(name, error)
            // As systemd would: the daemon ends and is started again.
            replace(process, after: 0)
        case .storeCondition(let refusal) where refusal?.code == .storeDamaged:
            // As an operator would, who has read that nothing more is written.
            replace(process, after: simulation.world.delay(.milliseconds(300) ... .seconds(6)))
        default: break
        }
    }

    private func replace(_ process: Process, after delay: UInt64) {
        simulation.world.after(delay, nil, "exit") { [weak self] in
            guard let self, self.process === process else { return }
            kill()
            simulation.restart(after: .milliseconds(300)) { self.start() }
        }
    }

    /// Up, with nothing left to delete and nothing that its disk may have lost.
    var isQuiet: Bool { cache?.doomedByteCount == 0 && !disk.hasLostWrites }

    /// What a verification of the store finds at this moment.
    func verify() throws(ServiceError) -> [StoreFinding] {
        guard let verification = cache?.verification() else { return [] }
        var findings: [StoreFinding] = []
        var batch: StoreVerification.Batch
        repeat {
            batch = try verification.advance()
            findings += batch.findings
        } while !batch.isDone
        return findings
    }

    /// SIGTERM: drains, closes the store, ends.
    func stop(_ done: @escaping @Sendable () -> Void) {
        guard let process, let server, process.pausedUntil <= simulation.world.now else { return }
        simulation.world.after(0, process, "stop") {
            server.stop().whenComplete { [weak self] _ in
                self?.simulation.world.after(0, nil, "stopped") { [weak self] in
                    guard let self, self.process === process else { return }
                    cache?.close()
                    disk.sync()
                    kill()
                    done()
                }
            }
        }
    }

    /// SIGKILL: the process is gone, what it had written is the kernel's.
    func kill() { end(withMachine: false) }

    func losePower() {
        guard isUp else { return }
        end(withMachine: true)
        disk.losePower(simulation.knobs.durability)
        simulation.lostUnsynced(rank)
    }

    private func end(withMachine: Bool) {
        guard let process else { return }
        self.process = nil
        process.die()
        server?.abandon()
        dangling += simulation.network.died(process, withMachine: withMachine)
        server = nil
        cache?.abandon()
        cache = nil
    }
}
