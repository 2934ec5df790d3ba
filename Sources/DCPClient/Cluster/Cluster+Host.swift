// SPDX-License-Identifier: Apache-2.0

public import DCPCore
public import DCPWire
internal import Glibc

/// A daemon's report, with the timing of the request.
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
    /// Requests a daemon's report of its host and its limits.
    /// - Parameter rank: nil for the coordinator.
    /// - Throws: `.rankUnavailable` or `.unreachable` if it does not answer; `.protocolViolation` from a release
    ///   without this request.
    public func hostReport(of rank: RankIndex?, in topology: Topology) async throws(ServiceError) -> HostAnswer {
        var wall = timespec()
        clock_gettime(CLOCK_REALTIME, &wall)
        let begin = ContinuousClock.now
        let report: HostReport
        if let rank {
            report = try await ask(GetHostReport(), of: rank, in: topology)
        } else {
            report = try await ask(GetHostReport())
        }
        let roundTrip = ContinuousClock.now - begin
        let middle = .seconds(wall.tv_sec) + .nanoseconds(wall.tv_nsec) + roundTrip / 2
        return HostAnswer(
            report: report, roundTrip: roundTrip,
            clockOffset: .nanoseconds(Int64(clamping: report.wallNanoseconds)) - middle)
    }

    /// One rank's counters.
    /// - Throws: `.rankUnavailable` when it is missing or does not answer.
    public func rankStatus(of rank: RankIndex, in topology: Topology) async throws(ServiceError) -> RankStatus {
        try await ask(GetRankStatus(), of: rank, in: topology)
    }
}
