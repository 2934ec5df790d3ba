// SPDX-License-Identifier: Apache-2.0

internal import DCPCache
internal import DCPCore
internal import DCPOracle
internal import DCPRank
internal import DCPStore
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
    /// A stored block has been damaged.
    var hasDamage = false
    /// Whether it runs on a copy of another's disk, beside that one.
    private let isTwin: Bool
    private var twin: RankNode?
    /// What the disk held when an older state of it was put in its place.
    private var newer: [UInt8]?

    init(_ rank: RankIndex, simulation: Simulation, isTwin: Bool = false) {
        self.rank = rank
        self.simulation = simulation
        self.isTwin = isTwin
        name = "rank-\(rank.value)" + (isTwin ? "-twin" : "")
        disk = SimulatedDisk(directory: simulation.directory + "/\(name)", world: simulation.world)
    }

    let name: String
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
        if let byteCount = knobs.uncommittedByteCountMax { settings.uncommittedByteCountMax = byteCount }
        if knobs.isMemoryShort { settings.memoryByteCountMax = 1 }
        settings.newStoreID = StoreID(high: world.random.next() | 1, low: world.random.next())
        do throws(ServiceError) {
            let isNew = starts == 1
            let cache = try ShardCache.open(
                directory: disk.directory, rank: rank, cluster: knobs.shape, settings: settings)
            disk.markMax = { [weak cache] in cache?.markMax ?? .max }
            if isNew { disk.sync() }
            self.cache = cache
            let loop = SimulatedLoop(process)
            let pool = ComputePool(
                threads: knobs.threads, host: host(of: process),
                decodeShare: simulation.sabotage?.decodeShare ?? PieceQueue.decodeShare)
            var configuration = RankConfiguration(
                rank: rank, listen: endpoint, coordinator: CoordinatorNode.endpoint, threads: knobs.threads)
            configuration.incarnation = world.random.next()
            configuration.holder = name
            configuration.loopWorkMax = TimeAmount(knobs.loopWorkMax)
            configuration.stepsInFlightMax = knobs.stepsInFlightMax
            configuration.earlyByteCountMax = knobs.earlyByteCountMax
            configuration.drainTimeout = .seconds(2)
            configuration.claimTimeout = .seconds(3)
            configuration.memoryIdle = TimeAmount(knobs.memoryIdle)
            configuration.heldPageCount = knobs.joinPieceCount
            configuration.stepTimeoutMax = .seconds(20)
            configuration.copyWork = process.reads
            configuration.link.network =
                simulation.sabotage?.network(of: rank, over: simulation.network) ?? simulation.network
            configuration.link.memory = knobs.sharedMemory
            configuration.link.handshakeTimeout = .seconds(2)
            configuration.link.stallTimeout = .seconds(6)
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

    /// Threads of which each is at one piece at a time, for some time. Which piece a free one is given is the rank's to say, and
    /// is checked here: decode steps before prefills, and neither for ever.
    private func host(of process: Process) -> ComputeHost {
        let world = simulation.world
        let turns = Turns()
        return ComputeHost(
            run: { turn in
                world.after(
                    world.delay(.microseconds(5) ... .milliseconds(2)) * process.slowness, process, "compute", turn)
            },
            dealt: { [weak simulation, name] line, waiting in
                simulation?.count("pieces of the \(line) line")
                if !waiting.filter({ $0 != line }).isEmpty { simulation?.count("pieces dealt while others wait") }
                if let fault = turns.dealt(line, waiting) {
                    simulation?.violate(.unfairTurns, "\(name) \(fault)")
                }
            })
    }

    private func observe(_ event: RankEvent, of process: Process) {
        simulation.world.trace.note("\(name): \(event)")
        guard self.process === process else { return }
        if isTwin { return twinObserves(event) }
        switch event {
        case .fatal where newer != nil: putNewerBack()
        case .fatal(let error):
            if !simulation.coordinator.explains(error) { simulation.fatal(self, error) }
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

    /// How far it knows the coordinator's state to have come; nil while it is down.
    var directoryPlace: UInt64? { cache.map { SimulatedDisk.place($0.highestEpoch, $0.directoryMark) } }

    /// Whether blocks of its store are in pieces.
    var hasPieces: Bool { (try? cache?.statistics().piecedBlocks).map { $0 > 0 } ?? false }

    /// Uncommitted ones, since it was started.
    var blocksSpilled: Int { (try? cache?.statistics()).map { Int($0.blocksSpilled) } ?? 0 }

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
                    // Which syncs what was written.
                    cache?.close()
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
        endTwin()
        guard let process else { return }
        self.process = nil
        process.die()
        if let traffic = server?.memoryTraffic {
            simulation.count("payloads in shared memory", Int(traffic.payloads))
            simulation.count("payloads without room there", Int(traffic.fallbacks))
        }
        server?.abandon()
        dangling += simulation.network.died(process, withMachine: withMachine)
        server = nil
        simulation.count("spilled blocks", blocksSpilled)
        cache?.abandon()
        cache = nil
    }

    // MARK: Copies of its disk

    /// Ends it and begins again with what a backup has.
    func restore(_ backup: [UInt8]) {
        kill()
        newer = nil
        disk.restore(backup)
        start()
    }

    /// An older state of its disk is in its place.
    var hasOlderStore: Bool { newer != nil }
    /// A copy of its disk is another process's.
    var hasTwin: Bool { twin != nil }

    /// Starts another process on a copy of the disk, under another address, and ends it after a while: a restored backup or
    /// a cloned machine beside the original.
    func startTwin(after delay: UInt64, for duration: UInt64) {
        guard isUp, twin == nil, newer == nil, !simulation.coordinator.hasOlderState else { return }
        let twin = RankNode(rank, simulation: simulation, isTwin: true)
        twin.disk.replace(with: disk.contents)
        self.twin = twin
        simulation.world.after(delay, nil, "twin") { [weak self] in if self?.twin === twin { twin.start() } }
        simulation.world.after(delay + duration, nil, "twin ends") { [weak self] in
            if self?.twin === twin { self?.endTwin() }
        }
    }

    private func endTwin() {
        twin?.kill()
        twin?.disk.remove()
        twin = nil
    }

    /// It may register when the original has lost its lease. Then it stops before it has changed anything, because
    /// changes that the original has not reported yet could not be missed.
    private func twinObserves(_ event: RankEvent) {
        switch event {
        case .joining where !simulation.coordinator.hasReplaced(rank), .fatal:
            simulation.world.after(0, nil, "twin goes") { [weak self] in self?.kill() }
        default: break
        }
    }

    /// Puts an older state of the disk in its place, if there is one that the coordinator can tell; the rank is down.
    func restoreOlder() {
        guard process == nil, newer == nil,
            let older = disk.olderContents(before: simulation.coordinator.mark(of: rank))
        else { return }
        simulation.world.trace.note("\(name) gets an older store")
        newer = disk.contents
        disk.replace(with: older)
    }

    /// The rank was refused because its store is an older one; an operator restores the newer one.
    private func putNewerBack() {
        simulation.count("older store refused")
        simulation.world.after(0, nil, "exit") { [weak self] in
            guard let self, newer != nil else { return }
            kill()
            simulation.restart(after: .milliseconds(simulation.world.draw(100...3000))) { [weak self] in
                guard let self, let newer, process == nil else { return }
                disk.replace(with: newer)
                self.newer = nil
                start()
            }
        }
    }
}
