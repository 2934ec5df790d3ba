// SPDX-License-Identifier: Apache-2.0

internal import DCPCertificates
import DCPClient
internal import DCPConsole
internal import DCPWire

/// Compares the hosts' wall clocks with this one's, to within half a round trip.
///
/// The protocol does not depend on them, because leases use monotonic clocks; the validity of certificates does, and so
/// does comparing the journals of two hosts.
enum ClockChecks {
    static let offsetWarning = Duration.seconds(1)
    /// A certificate that was made just now is not valid yet on a host that is further behind.
    static let offsetFailed = Duration.seconds(CertificateValidity.clockSkew)

    /// One check for each host that answered, by the answer with the shortest round trip.
    static func checks(_ daemons: [DaemonFindings]) -> [Check] {
        var best: [String: HostAnswerOfHost] = [:]
        for daemon in daemons {
            guard case .success(let answer) = daemon.answer else { continue }
            let host = answer.report.bootID + answer.report.hostName
            if let known = best[host], known.roundTrip <= answer.roundTrip { continue }
            best[host] = HostAnswerOfHost(
                name: answer.report.hostName, roundTrip: answer.roundTrip, offset: answer.clockOffset)
        }
        return best.values.sorted { ($0.name, $0.offset) < ($1.name, $1.offset) }.map(check)
    }

    private struct HostAnswerOfHost {
        var name: String
        var roundTrip: Duration
        var offset: Duration
    }

    private static func check(_ host: HostAnswerOfHost) -> Check {
        let distance = host.offset < .zero ? .zero - host.offset : host.offset
        let doubt = host.roundTrip / 2
        let side = host.offset < .zero ? "behind" : "ahead"
        let value =
            distance <= doubt
            ? "no difference seen, give or take \(DurationFormat.latency(doubt))"
            : "\(DurationFormat.latency(distance)) \(side), give or take \(DurationFormat.latency(doubt))"
        let limit = "within \(DurationFormat.short(offsetWarning)) of this host"
        let remedy =
            "Synchronize the clocks of both hosts (systemd-timesyncd, chrony): the validity of certificates depends "
            + "on them."
        if distance > offsetFailed + doubt {
            return .failed("clock", host.name, value, limit: limit, remedy: remedy)
        }
        if distance > offsetWarning + doubt {
            return .warning("clock", host.name, value, limit: limit, remedy: remedy)
        }
        return .ok("clock", host.name, value, limit: limit)
    }
}
