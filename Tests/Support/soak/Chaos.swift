// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPTransport
import Foundation
import Glibc

/// Kills, stops, cuts off and fills up the daemons of a cluster, and brings copies of their stores, by a schedule that a seed
/// replays.
struct Chaos {
    let local: LocalCluster
    let proxies: [FaultProxy]
    let disk: SmallDisk?
    let tally: Tally
    let pause: Pause
    let accepted: AcceptedStores
    let isVerbose: Bool
    private(set) var memory: MemoryWatch?
    private var random: SeededGenerator
    private let began = ContinuousClock.now

    /// Of the coordinator that the soak starts.
    static let lease = Duration.seconds(1)
    /// A cluster whose daemons all run is ready after this, or something is wrong.
    static let readyMax = Duration.seconds(60)

    init(
        local: LocalCluster, proxies: [FaultProxy], disk: SmallDisk?, tally: Tally, pause: Pause,
        accepted: AcceptedStores, seed: UInt64, isVerbose: Bool, memory: MemoryWatch?
    ) {
        self.memory = memory
        self.local = local
        self.proxies = proxies
        self.disk = disk
        self.tally = tally
        self.pause = pause
        self.accepted = accepted
        self.isVerbose = isVerbose
        random = SeededGenerator(seed: seed)
    }

    private var ranks: [DaemonRole] { local.roles.filter { $0 != .coordinator } }

    /// Disturbs until the instant has come or a check has failed, then leaves the cluster whole and ready.
    mutating func run(until end: ContinuousClock.Instant) async throws {
        while ContinuousClock.now < end, !tally.hasFailed {
            // The schedule's own pace; nothing is waited for.
            try await Task.sleep(for: .milliseconds(Int.random(in: 200...1600, using: &random)))
            try await disturb()
            let running = local.running
            memory?.look(at: running)
            // A quarter of the time the next blow falls while the cluster recovers from this one.
            if Int.random(in: 0..<4, using: &random) > 0 { try await waitUntilReady() }
        }
        for proxy in proxies { proxy.set(.none) }
        for role in local.roles where local.daemon(role)?.exit != nil { try local.start(role) }
        try await waitUntilReady()
    }

    private mutating func disturb() async throws {
        // All draws before anything is done: what happens meanwhile does not change the schedule.
        let kind = Int.random(in: 0..<112, using: &random)
        let rank = ranks.randomElement(using: &random)!
        let other = ranks.randomElement(using: &random)!
        let point = FailPoint.allCases.randomElement(using: &random)!
        let count = Int.random(in: 1...6, using: &random)
        let pause = Duration.milliseconds(Int.random(in: 200...1500, using: &random))
        let proxy = proxies.randomElement(using: &random)!
        let fault: FaultProxy.Fault = [
            .drop(oneIn: 20), .duplicate(oneIn: 3), .delay(microseconds: 3000), .cut(towardsRank: true),
            .cut(towardsRank: false),
        ].randomElement(using: &random)!
        let isOther = Bool.random(using: &random)
        switch kind {
        case 0..<32: try await kill([rank], as: "rank")
        case 32..<40: try await kill(Array(Set([rank, other])), as: "rank, of two at once")
        case 40..<48: try await kill([.coordinator], as: "coordinator")
        case 48..<52: try await kill(local.roles, as: "all at once")
        case 52..<78: try await fail(at: point, count: count, rank: rank)
        case 78..<84: try await stop(rank, for: Self.lease + pause)
        case 84..<95:
            say("proxy: \(fault) for \(pause)")
            proxy.set(fault)
            try await Task.sleep(for: pause)
            proxy.set(.none)
            tally.update { $0.disturbances["proxy: \(fault.name)", default: 0] += 1 }
        case 95..<100: try await fillDisk(for: pause)
        case 100..<107: try await restoreOlder(rank, accepting: isOther)
        default: try await startSecondHolder(of: rank, killsOriginal: isOther)
        }
    }

    // MARK: Kills

    /// SIGKILL, and started again at once, as a service manager does.
    private func kill(_ roles: [DaemonRole], as kind: String) async throws {
        say("kill \(roles.map(\.description).joined(separator: ", "))")
        for role in roles { local.daemon(role)?.signal(SIGKILL) }
        for role in roles {
            try await local.kill(role)
            try local.start(role)
        }
        tally.update { $0.kills[kind, default: 0] += roles.count }
    }

    /// Lets a daemon kill itself at a fail point; one that does not come to it within a while is killed.
    private func fail(at point: FailPoint, count: Int, rank: DaemonRole) async throws {
        let role = point == .coordinatorPersisted ? .coordinator : rank
        // It is passed once a start.
        let count = point == .registerFirst || point == .registerAgain ? 1 : count
        say("\(role): \(point.rawValue):\(count)")
        try await local.kill(role)
        try local.start(role, environment: ["DCP_FAIL_POINT": "\(point.rawValue):\(count)"])
        let process = local.daemon(role)
        let deadline = ContinuousClock.now + .seconds(4)
        let exit = await onOwnThread { process?.waitForExit(until: deadline) }
        switch exit {
        case .signal(SIGKILL): tally.update { $0.kills["at \(point.rawValue)", default: 0] += 1 }
        case nil:
            say("\(role) did not come to \(point.rawValue)")
            try await local.kill(role)
        case let exit?: throw SoakFailure("\(role) ended by itself: \(exit)")
        }
        tally.update { $0.kills["to arm a fail point", default: 0] += 1 }
        try local.start(role)
    }

    // MARK: Without a kill

    private func stop(_ role: DaemonRole, for duration: Duration) async throws {
        say("stop \(role) for \(duration)")
        local.daemon(role)?.signal(SIGSTOP)
        try await Task.sleep(for: duration)
        local.daemon(role)?.signal(SIGCONT)
        tally.update { $0.disturbances["stopped beyond the lease", default: 0] += 1 }
    }

    private func fillDisk(for duration: Duration) async throws {
        guard let disk else { return }
        say("disk full for \(duration)")
        disk.fill()
        try await Task.sleep(for: duration)
        disk.free()
        tally.update { $0.disturbances["disk full", default: 0] += 1 }
    }

    // MARK: Recovery

    /// Waits until the cluster serves. A daemon that has ended by itself is a failure.
    func waitUntilReady() async throws {
        let start = ContinuousClock.now
        let endpoint = try Endpoint(local.coordinatorEndpoint)
        do throws(ServiceError) {
            try await local.waitUntilReady(deadline: Self.readyMax) { _ async throws(ServiceError) in
                let cluster = try await Cluster.connectWhenReady(to: endpoint, wait: Self.readyMax)
                await cluster.close()
            }
        } catch {
            throw SoakFailure("The cluster did not recover: \(error)")
        }
        tally.recovered(in: (ContinuousClock.now - start) / .seconds(1))
    }

    func say(_ text: String) {
        guard isVerbose else { return }
        let seconds = ((ContinuousClock.now - began) / .seconds(1) * 1000).rounded() / 1000
        FileHandle.standardError.write(Data("dcp-soak: \(seconds) s: \(text)\n".utf8))
    }
}

/// Runs what blocks on a thread of its own: the threads that tasks share are few.
func onOwnThread<Value: Sendable>(_ body: @escaping @Sendable () -> Value) async -> Value {
    await withCheckedContinuation { continuation in
        Thread.detachNewThread { continuation.resume(returning: body()) }
    }
}
