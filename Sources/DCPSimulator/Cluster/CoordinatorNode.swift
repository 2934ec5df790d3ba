// SPDX-License-Identifier: Apache-2.0

internal import DCPCoordinator
internal import DCPCore
internal import DCPStore
internal import DCPTransport
internal import NIOCore

/// The machine of the coordinator.
final class CoordinatorNode: @unchecked Sendable {
    static let endpoint = Endpoint.tcp(host: "coordinator", port: 7300)
    static let name = "coordinator"

    private unowned let simulation: Simulation
    private let disk: SimulatedDisk
    private(set) var process: Process?
    private var server: CoordinatorServer?
    private var store: CoordinatorStore?
    private var dangling: [SimulatedChannel] = []
    private var starts = 0
    private var replaced: Set<RankIndex> = []
    /// The operator has said that the directory is to be made of what the ranks hold.
    private var adopts = false
    /// Every rank's store has joined the cluster.
    private var hasBeenReady = false
    /// The disk's contents when an older state silently replaced them.
    private var newer: [UInt8]?
    private var hasHadOlderState = false

    init(simulation: Simulation) {
        self.simulation = simulation
        disk = SimulatedDisk(
            directory: simulation.directory + "/coordinator", world: simulation.world, copyAge: .seconds(1))
    }

    var isUp: Bool { process != nil }

    func start() {
        guard process == nil else { return }
        let world = simulation.world
        let process = Process(name: Self.name, world: world)
        self.process = process
        simulation.network.tellPeers(of: dangling)
        dangling = []
        starts += 1
        do throws(ServiceError) {
            let isNew = starts == 1
            let store = try CoordinatorStore(
                directory: disk.directory, shape: simulation.knobs.shape,
                newClusterID: ClusterID(world.random.next() | 1),
                writerHost: DiskHost(disk, process, latencyMax: simulation.knobs.diskLatencyMax))
            disk.markMax = { [weak self] in self?.place ?? .max }
            if isNew || adopts { disk.sync() }
            self.store = store
            var configuration = CoordinatorServer.Configuration(listen: Self.endpoint)
            configuration.lease = simulation.knobs.lease
            configuration.adoptsRanks = adopts
            configuration.adoptionMargin = UInt64(world.draw(1000...1_000_000))
            configuration.operationWindow = simulation.knobs.operationWindow
            configuration.joinPieceCount = simulation.knobs.joinPieceCount
            configuration.copyWork = process.reads
            configuration.link.network = simulation.network
            configuration.link.handshakeTimeout = .seconds(2)
            configuration.link.stallTimeout = .seconds(6)
            let server = CoordinatorServer(configuration, store: store, eventLoop: SimulatedLoop(process)) {
                [weak self] event in self?.observe(event, of: process)
            }
            self.server = server
            world.after(0, process, "start") { _ = server.start() }
        } catch {
            simulation.violate(.refusedStart, "the coordinator does not start: \(error)")
        }
    }

    /// Whether a rank that was there had to give way to another connection, the last time it was lost.
    func hasReplaced(_ rank: RankIndex) -> Bool { replaced.contains(rank) }

    /// How far it knows a rank's store to have come.
    /// Nothing while it may forget that: with a slow disk it can be killed between hearing of a mark and recording it.
    func mark(of rank: RankIndex) -> UInt64 { server.map { $0.isSettled ? $0.mark(of: rank) : 0 } ?? 0 }

    private func observe(_ event: CoordinatorEvent, of process: Process) {
        simulation.world.trace.note("\(Self.name): \(event)")
        switch event {
        case .joining(let epoch): simulation.began(epoch)
        case .rankLost(let rank, let reason):
            if reason == "it reconnected" { replaced.insert(rank) } else { replaced.remove(rank) }
        case .ready: hasBeenReady = true
        case .rankRefused where newer != nil: putNewerBack()
        case .adopted(let report):
            adopts = false
            simulation.count("directories adopted")
            simulation.count("sequences adopted", report.sequences)
            simulation.count("sequences not adopted", report.lost.count)
        case .fatal(let error): simulation.violate(.refusedStart, "the coordinator ends: \(error)")
        default: break
        }
    }

    func kill() { end(withMachine: false) }

    func losePower() {
        guard isUp else { return }
        end(withMachine: true)
        disk.losePower(.always)
    }

    /// Its state is lost, or replaced by an older one. The operator who starts it next knows.
    func loseState(forOlder isOlder: Bool) {
        let older = isOlder ? disk.olderContents() : []
        guard isUp, hasBeenReady, newer == nil, let older else { return }
        kill()
        isOlder ? disk.replace(with: older) : disk.remove()
        adopts = true
        simulation.lostDirectory()
    }

    // MARK: An older state

    /// An older state has replaced its disk, and the operator does not know.
    var hasOlderState: Bool { newer != nil }

    /// Whether a rank may end for having met an older state, by a frame of perhaps some time ago.
    func explains(_ error: ServiceError) -> Bool { hasHadOlderState && error.code == .storeRefused }

    /// How far its state has come, in one number: an epoch, and changes in it.
    private var place: UInt64? { server.map { SimulatedDisk.place($0.place.epoch, $0.place.directoryMark) } }

    /// Puts an older state of the disk in its place, if there is one that every rank can tell.
    func restoreOlder() {
        let known = simulation.ranks.map { $0.directoryPlace ?? 0 }.min()!
        guard isUp, hasBeenReady, newer == nil, !adopts, let older = disk.olderContents(before: known) else { return }
        kill()
        simulation.world.trace.note("\(Self.name) gets an older state")
        newer = disk.contents
        hasHadOlderState = true
        disk.replace(with: older)
        simulation.lostDirectory()
    }

    /// Ranks have reported that its state is an older one; an operator restores the newer one.
    private func putNewerBack() {
        simulation.count("older state refused")
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

    /// Ends it and begins again with what a backup has.
    func restore(_ backup: [UInt8]) {
        kill()
        (newer, adopts) = (nil, false)
        disk.restore(backup)
        start()
    }

    private func end(withMachine: Bool) {
        guard let process else { return }
        self.process = nil
        process.die()
        server?.abandon()
        dangling += simulation.network.died(process, withMachine: withMachine)
        server = nil
        store?.abandon()
        store = nil
    }
}
