// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import Foundation
internal import Glibc
internal import Synchronization

/// A coordinator and its ranks as processes on this machine, as run by `dcpctl up` and integration tests.
///
/// Unless detached, daemons have a lifeline to this object: they stop when it is released, even if this process is
/// killed. Safe to use from any thread.
public final class LocalCluster: Sendable {
    public let directory: LocalClusterDirectory
    public let configuration: LocalClusterConfiguration
    /// `unix:D/coordinator.sock` or `tcp:127.0.0.1:PORT`: what `DCP_COORDINATOR` is set to.
    public let coordinatorEndpoint: String
    /// By rank.
    public let rankEndpoints: [String]

    let options: LocalClusterOptions
    let executables: DaemonExecutables?
    /// Held from the start until all have been stopped.
    private let lock: Mutex<DirectoryLock?>
    /// Processes started or found; one that has ended stays until it is restarted.
    private let daemons: Mutex<[DaemonRole: DaemonProcess]>
    /// Nil once the cluster has been ready, and for one that was found.
    private let trial: Mutex<StartTrial?>

    init(
        directory: LocalClusterDirectory, configuration: LocalClusterConfiguration, ports: LocalClusterPorts?,
        options: LocalClusterOptions, executables: DaemonExecutables?, lock: DirectoryLock?,
        daemons: [DaemonRole: DaemonProcess], trial: StartTrial? = nil
    ) {
        self.directory = directory
        self.configuration = configuration
        self.options = options
        self.executables = executables
        self.lock = Mutex(lock)
        self.daemons = Mutex(daemons)
        self.trial = Mutex(trial)
        if let ports {
            coordinatorEndpoint = "tcp:127.0.0.1:\(ports.coordinator)"
            rankEndpoints = ports.ranks.map { "tcp:127.0.0.1:\($0)" }
        } else {
            coordinatorEndpoint = "unix:" + directory.socket(of: .coordinator)
            rankEndpoints = configuration.roles.dropFirst().map { "unix:" + directory.socket(of: $0) }
        }
    }

    /// The coordinator, then the ranks: the order of starting.
    public var roles: [DaemonRole] { configuration.roles }

    public func endpoint(of role: DaemonRole) -> String {
        switch role {
        case .coordinator: coordinatorEndpoint
        case .rank(let rank): rankEndpoints[Int(rank.value)]
        }
    }

    /// The process of a daemon; nil when it was never started here. It may have ended.
    public func daemon(_ role: DaemonRole) -> DaemonProcess? { daemons.withLock { $0[role] } }

    /// The daemons that run now, in the order of `roles`.
    public var running: [(role: DaemonRole, process: DaemonProcess)] {
        roles.compactMap { role in daemon(role).flatMap { $0.exit == nil ? (role, $0) : nil } }
    }

    // MARK: One daemon

    /// Starts a stopped daemon with its store and endpoint. Does not wait until it is ready.
    /// - Parameters:
    ///   - arguments: for this run alone, after its own.
    ///   - environment: for this run alone, above that of the options.
    /// - Throws: `.conflict` when it runs; `.invalidConfiguration` when it cannot be run.
    public func start(
        _ role: DaemonRole, arguments: [String] = [], environment: [String: String] = [:]
    ) throws(ServiceError) {
        guard roles.contains(role) else {
            throw ServiceError(
                .invalidRequest,
                "The cluster of \(configuration.ranks) ranks in \(directory.path) has no \(role); give a rank in "
                    + "0...\(configuration.ranks - 1).")
        }
        if let process = daemon(role), process.exit == nil {
            throw ServiceError(.conflict, "The \(role) is already running (pid \(process.pid)); stop it first.")
        }
        let executables =
            if let executables { executables } else { try DaemonExecutables(binDirectory: options.binDirectory) }
        directory.removeStaleSocket(of: role)
        let process = try DaemonProcess.spawn(
            name: role.description, executable: executables.path(of: role),
            arguments: self.arguments(of: role) + arguments,
            environment: Self.backtrace.merging(options.environment) { $1 }.merging(environment) { $1 },
            logPath: directory.log(of: role),
            lifeline: !options.detached)
        daemons.withLock { $0[role] = process }
        try writeRunning()
    }

    /// As in the units: a trap writes its stack as addresses, in milliseconds. The user's setting takes precedence.
    private static var backtrace: [String: String] {
        guard EnvironmentVariable.value("SWIFT_BACKTRACE") == nil else { return [:] }
        return [
            "SWIFT_BACKTRACE":
                "enable=yes,threads=crashed,registers=none,images=mentioned,limit=32,interactive=no,color=no,symbolicate=off"
        ]
    }

    /// Sends SIGTERM and, after the deadline, SIGKILL; nil if it was not running.
    @discardableResult
    public func stop(_ role: DaemonRole, deadline: Duration) async throws(ServiceError) -> DaemonProcess.StopOutcome? {
        guard let process = daemon(role), process.exit == nil else { return nil }
        let outcome = await DaemonWatch.onOwnThread { process.terminate(deadline: deadline) }
        try writeRunning()
        return outcome
    }

    /// Sends SIGKILL and returns when the process is gone: a crash, for tests.
    public func kill(_ role: DaemonRole) async throws(ServiceError) {
        guard let process = daemon(role) else { return }
        await DaemonWatch.onOwnThread { _ = process.kill() }
        try writeRunning()
    }

    /// Restarts the daemons that have ended. Does not wait until they are ready.
    /// - Returns: which these are.
    public func startMissing() throws(ServiceError) -> [DaemonRole] {
        let missing = roles.filter { daemon($0)?.exit != nil || daemon($0) == nil }
        for role in missing { try start(role) }
        return missing
    }

    public func startRank(_ rank: Int) throws(ServiceError) { try start(.rank(try rankIndex(rank))) }

    public func killRank(_ rank: Int) async throws(ServiceError) { try await kill(.rank(try rankIndex(rank))) }

    private func rankIndex(_ rank: Int) throws(ServiceError) -> RankIndex {
        guard (0..<configuration.ranks).contains(rank) else {
            throw ServiceError(
                .invalidRequest, "Rank \(rank) is outside 0...\(configuration.ranks - 1); give a rank of this cluster.")
        }
        return RankIndex(UInt16(rank))
    }

    // MARK: All of them

    /// What became of one daemon.
    public struct StopReport: Sendable {
        public let role: DaemonRole
        public let outcome: DaemonProcess.StopOutcome
    }

    /// Stops all ranks concurrently, then the coordinator. A daemon that does not end on SIGTERM within the deadline
    /// gets SIGKILL; the coordinator gets the rest of the deadline, and at least a second.
    ///
    /// Cancellation does not interrupt it.
    /// - Returns: what ran, in the order of `roles`.
    @discardableResult
    public func stop(deadline: Duration) async -> [StopReport] {
        await DaemonWatch.onOwnThread { self.stopAndWait(deadline: deadline) }
    }

    /// `stop` for callers that are not async. Blocks.
    @discardableResult
    public func stopAndWait(deadline: Duration) -> [StopReport] {
        let start = ContinuousClock.now
        let running = running
        var reports: [StopReport] = []
        let ranks = running.filter { $0.role != .coordinator }
        ranks.forEach { $0.process.signal(SIGTERM) }
        for (role, process) in ranks {
            let outcome = process.finishTermination(since: start, until: start + deadline)
            reports.append(StopReport(role: role, outcome: outcome))
        }
        if let coordinator = running.first(where: { $0.role == .coordinator })?.process {
            let left = max(start + deadline - .now, .seconds(1))
            reports.insert(StopReport(role: .coordinator, outcome: coordinator.terminate(deadline: left)), at: 0)
        }
        // A stale pids.json is harmless: the identities in it no longer run.
        try? writeRunning()
        trial.withLock { trial in
            if trial?.isRefused == true { trial?.takeBack() }
            trial = nil
        }
        // Released here and not with the last reference: the caller may start the next cluster immediately.
        lock.withLock { $0 = nil }
        return reports
    }

    /// The cluster has been ready: its configuration is good, and its stores may have a client's data.
    func acceptStart() { trial.withLock { $0 = nil } }

    /// A daemon refused the configuration: `stopAndWait` takes back what the start has written.
    func refuseStart() { trial.withLock { $0?.isRefused = true } }

    /// Waits until any daemon has ended; nil when the task was cancelled.
    public func firstExit() async throws(ServiceError) -> (role: DaemonRole, exit: ProcessExit)? {
        try await firstExit(until: nil).map { ($0.role, $0.process.exit ?? .unknown) }
    }

    func firstExit(until deadline: ContinuousClock.Instant?) async throws(ServiceError)
        -> (role: DaemonRole, process: DaemonProcess)?
    {
        let watched = roles.compactMap { role in daemon(role).map { (role, $0) } }
        guard let process = try await DaemonWatch.firstExit(of: watched.map(\.1), until: deadline) else { return nil }
        return watched.first { $0.1 === process }
    }

    private func writeRunning() throws(ServiceError) {
        let entries = running.map { RunningDaemons.Entry(name: $0.role.fileName, process: $0.process.identity) }
        try directory.writeDaemons(
            entries.isEmpty
                ? nil : RunningDaemons(bootId: ProcessIdentity.bootID, detached: options.detached, daemons: entries))
    }
}
