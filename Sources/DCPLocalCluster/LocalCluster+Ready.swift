// SPDX-License-Identifier: Apache-2.0

public import DCPCore

extension LocalCluster {
    /// Waits until the coordinator at an endpoint reports that the cluster is ready. Ends only then, or soon after its
    /// task is cancelled.
    public typealias ReadyCheck = @Sendable (_ coordinatorEndpoint: String) async throws(ServiceError) -> Void

    private enum Event: Sendable {
        case ready
        case failed(ServiceError)
        case exited(DaemonRole)
        case deadline
        case interrupted
    }

    /// Waits until the check returns, a daemon ends, or the deadline has passed.
    ///
    /// - Throws: what the check throws; for a daemon that ended, `.rankUnavailable` or `.unreachable` (or
    ///   `.invalidConfiguration` when its exit status says that trying again is useless) with the last lines of its
    ///   log; `.deadlineExceeded`; `.stepAborted` when the task is cancelled. The daemons keep running; the caller
    ///   decides whether to stop them.
    public func waitUntilReady(deadline: Duration, _ check: @escaping ReadyCheck) async throws(ServiceError) {
        let endpoint = coordinatorEndpoint
        let instant = ContinuousClock.now + deadline
        let event = await withTaskGroup(of: Event.self) { group in
            group.addTask {
                do throws(ServiceError) {
                    try await check(endpoint)
                    // A check that ended because it was cancelled has seen nothing.
                    return Task.isCancelled ? .interrupted : .ready
                } catch {
                    return .failed(error)
                }
            }
            group.addTask {
                do throws(ServiceError) {
                    if let exited = try await self.firstExit(until: instant) { return .exited(exited.role) }
                    return Task.isCancelled ? .interrupted : .deadline
                } catch {
                    return .failed(error)
                }
            }
            var first = await group.next() ?? .deadline
            group.cancelAll()
            // A check that fails because a daemon died is explained by the daemon, not by the refused connection.
            if case .failed = first, let role = self.roles.first(where: { self.daemon($0)?.exit != nil }) {
                first = .exited(role)
            }
            return first
        }
        switch event {
        case .ready: acceptStart()
        case .failed(let error): throw error
        case .exited(let role):
            let error = earlyExit(of: role)
            if error.code == .invalidConfiguration { refuseStart() }
            throw error
        case .deadline:
            throw ServiceError(
                .deadlineExceeded,
                "The cluster in \(directory.path) was not ready within \(deadline); check "
                    + "\(directory.logsDirectory), or wait longer.")
        case .interrupted:
            throw ServiceError(.stepAborted, "The start of the cluster in \(directory.path) was interrupted.")
        }
    }

    /// The error for a daemon that exited unexpectedly.
    public func earlyExit(of role: DaemonRole) -> ServiceError {
        guard let process = daemon(role) else {
            return ServiceError(.unreachable, "The \(role) was never started; start it with `dcpctl up`.")
        }
        let exit = process.exit
        let lines = process.lastLogLines()
        let log =
            lines.isEmpty
            ? "Its log \(process.logPath) does not say why."
            : "Last lines of \(process.logPath):\n" + lines.map { "  \($0)" }.joined(separator: "\n")
        let message = "The \(role) \(exit.map(\.description) ?? "is running") before the cluster was ready. \(log)"
        // sysexits: 64...78 say what is wrong; 69 and 75 say that it may be better later.
        if case .status(let status) = exit, (64...78).contains(status), status != 69, status != 75 {
            return ServiceError(.invalidConfiguration, message, rank: role.rank)
        }
        return ServiceError(role == .coordinator ? .unreachable : .rankUnavailable, message, rank: role.rank)
    }

    /// Runs a body with a cluster in a temporary directory, and stops and removes it afterwards, even if the start, the
    /// check or the body fails.
    ///
    /// - Parameters:
    ///   - readyDeadline: for all daemons to become ready.
    ///   - stopDeadline: for each to end on SIGTERM.
    public static func withEphemeral<Result>(
        options: LocalClusterOptions, readyDeadline: Duration = .seconds(30), stopDeadline: Duration = .seconds(10),
        ready: @escaping ReadyCheck, _ body: (LocalCluster) async throws -> Result
    ) async throws -> Result {
        let directory = try LocalClusterDirectory.ephemeral()
        // Another failure is more important than a directory that cannot be removed.
        defer { try? directory.remove() }
        var options = options
        options.detached = false
        let cluster = try start(in: directory, options: options)
        do {
            try await cluster.waitUntilReady(deadline: readyDeadline, ready)
            let result = try await body(cluster)
            await cluster.stop(deadline: stopDeadline)
            return result
        } catch {
            await cluster.stop(deadline: stopDeadline)
            throw error
        }
    }
}

extension DaemonRole {
    public var rank: RankIndex? {
        if case .rank(let rank) = self { rank } else { nil }
    }
}
