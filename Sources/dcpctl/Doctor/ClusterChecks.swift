// SPDX-License-Identifier: Apache-2.0

public import DCPClient
internal import DCPConsole
public import DCPCore
public import DCPWire

/// The results for one daemon.
public struct DaemonFindings: Sendable {
    /// Nil is the coordinator.
    public var rank: RankIndex?
    public var endpoint: String
    public var answer: Result<HostAnswer, ServiceError>
    /// Of a rank that answers.
    public var status: RankStatus?

    public init(
        rank: RankIndex?, endpoint: String, answer: Result<HostAnswer, ServiceError>, status: RankStatus? = nil
    ) {
        self.rank = rank
        self.endpoint = endpoint
        self.answer = answer
        self.status = status
    }

    var subject: String { rank.map { "\($0)" } ?? "coordinator" }
}

/// Checks of a cluster's daemons: whether they answer, reach each other, and match.
public enum ClusterChecks {
    public static func checks(_ topology: Topology, _ daemons: [DaemonFindings], release: String) -> [Check] {
        [readiness(topology, daemons)] + daemons.flatMap { checks($0, release: release) } + ClockChecks.checks(daemons)
    }

    /// For a coordinator that does not answer.
    public static func unreachable(_ endpoint: String, _ error: ServiceError) -> Check {
        .failed(
            "reachability", "coordinator", "no answer at \(endpoint)", limit: "answers", remedy: error.message)
    }

    private static func readiness(_ topology: Topology, _ daemons: [DaemonFindings]) -> Check {
        let value = topology.phase == .ready ? "ready in \(topology.epoch)" : topology.reason
        let missing = topology.members.first { $0.endpoint == nil }?.rank
        let coordinator = daemons.first { $0.rank == nil }.flatMap { try? Endpoint($0.endpoint) }
        guard topology.phase == .ready else {
            return .failed(
                "cluster", "all ranks", value, limit: "ready",
                remedy: missing.flatMap { rank in
                    coordinator.map { "Start the missing rank: \(ServiceStart.of(rank, beside: $0))." }
                } ?? "Wait until all ranks have joined.")
        }
        return .ok("cluster", "all ranks", value, limit: "ready")
    }

    private static func checks(_ daemon: DaemonFindings, release: String) -> [Check] {
        let subject = daemon.subject
        switch daemon.answer {
        case .failure(let error):
            return [
                .failed(
                    "reachability", subject, daemon.endpoint.isEmpty ? "missing" : "no answer at \(daemon.endpoint)",
                    limit: "answers", remedy: error.message)
            ]
        case .success(let answer):
            let reached = Check.ok(
                "reachability", subject, "\(daemon.endpoint) in \(DurationFormat.latency(answer.roundTrip))",
                limit: "answers")
            return [reached, version(answer.report, subject, release)] + peers(answer.report, subject)
                + HostChecks.checks(answer.report, of: subject) + (daemon.status.map { [store($0, subject)] } ?? [])
        }
    }

    private static func version(_ report: HostReport, _ subject: String, _ release: String) -> Check {
        guard report.release == release else {
            return .warning(
                "version", subject, report.release, limit: release,
                remedy:
                    "Install one release on all machines, and restart the daemons one at a time: they answer, so "
                    + "their protocol versions match.")
        }
        return .ok("version", subject, report.release, limit: release)
    }

    /// Links between ranks, which the ranks alone know.
    private static func peers(_ report: HostReport, _ subject: String) -> [Check] {
        guard !report.peers.isEmpty else { return [] }
        let lost = report.peers.filter { !$0.isReached }.map { "\($0.rank.value)" }.joined(separator: ", ")
        let limit = "all \(report.peers.count) of its head group"
        guard lost.isEmpty else {
            return [
                .failed(
                    "peers", subject, "without rank \(lost)", limit: limit,
                    remedy:
                        "Start the missing rank; if it is running, check that \(report.hostName) reaches the "
                        + "endpoint that `dcpctl status` shows for it, and check both journals.")
            ]
        }
        let shared = report.peers.count { $0.sharesMemory }
        let way = shared == 0 ? "over the connection" : "\(shared) through shared memory"
        return [.ok("peers", subject, "all reached, tensors \(way)", limit: limit)]
    }

    private static func store(_ status: RankStatus, _ subject: String) -> Check {
        let limit = "writable"
        switch status.room.condition {
        case .writable: return .ok("store", subject, "writable, \(status.room.durability)", limit: limit)
        case .full, .refused:
            return .failed(
                "store", subject, "\(status.room.condition)", limit: limit,
                remedy: "\(status.room.refusal) Free space on its disk, raise --disk-limit, or close sequences.")
        case .failed:
            return .failed(
                "store", subject, "a sync failed", limit: limit,
                remedy: "Check the disk, then restart the rank, which verifies its store before it serves.")
        }
    }
}
