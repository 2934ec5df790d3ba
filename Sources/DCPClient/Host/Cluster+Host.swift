public import DCPCore
public import DCPWire
internal import Glibc

/// A daemon's report, and what its journey told.
public struct HostAnswer: Sendable {
    public let report: HostReport
    public let roundTrip: Duration
    /// How far the daemon's wall clock is ahead of this host's, give or take half the round trip.
    public let clockOffset: Duration

    public init(report: HostReport, roundTrip: Duration, clockOffset: Duration) {
        self.report = report
        self.roundTrip = roundTrip
        self.clockOffset = clockOffset
    }
}

extension Cluster {
    /// Asks a daemon about its host and its limits.
    /// - Parameter rank: nil for the coordinator.
    /// - Throws: `.rankUnavailable` or `.unreachable` when it does not answer; `.protocolViolation` from a daemon of a
    ///   release that knows no such request.
    public func hostReport(of rank: RankIndex?, in topology: Topology) async throws(ServiceError) -> HostAnswer {
        var wall = timespec()
        clock_gettime(CLOCK_REALTIME, &wall)
        let begin = ContinuousClock.now
        let reply: Message
        if let rank {
            guard !topology.endpoint(of: rank).isEmpty else {
                throw ServiceError(
                    .rankUnavailable, "\(rank) is missing. Start it: systemctl start dcp-rank@\(rank.value).",
                    rank: rank)
            }
            reply = try await ask(
                [(rank, .hostReportRequest)], topology: topology, tag: Tag(client: client, number: takeNumber()),
                timeout: timeouts.request)[0]
        } else {
            reply = try await ask(.hostReportRequest)
        }
        let roundTrip = ContinuousClock.now - begin
        guard case .hostReport(let report) = reply else {
            throw Self.unexpected(reply, from: rank.map { "\($0)" } ?? "the coordinator")
        }
        let middle = .seconds(wall.tv_sec) + .nanoseconds(wall.tv_nsec) + roundTrip / 2
        return HostAnswer(
            report: report, roundTrip: roundTrip,
            clockOffset: .nanoseconds(Int64(clamping: report.wallNanoseconds)) - middle)
    }

    /// One rank's counters.
    /// - Throws: `.rankUnavailable` when it is missing or does not answer.
    public func rankStatus(of rank: RankIndex, in topology: Topology) async throws(ServiceError) -> RankStatus {
        let reply = try await ask(
            [(rank, .rankStatusRequest)], topology: topology, tag: Tag(client: client, number: takeNumber()),
            timeout: timeouts.request)[0]
        guard case .rankStatus(let status) = reply else { throw Self.unexpected(reply, from: "\(rank)") }
        return status
    }
}
