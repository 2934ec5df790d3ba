// SPDX-License-Identifier: Apache-2.0

package import DCPCore

/// The answer of `/healthz` and `/readyz`: the verdict, its reason in one line, and figures. A value without a clock.
package struct HealthVerdict: Encodable, Hashable, Sendable {
    package var ok: Bool
    /// Why not; for a daemon without canaries, what its answer rests on. One line.
    package var reason: String
    package var rank: Int?
    package var release: String
    package var epoch: UInt64?
    package var ready: Bool
    package var canary: Canary

    package struct Canary: Encodable, Hashable, Sendable {
        /// nil: off.
        package var intervalSeconds: Double?
        /// Since one last went through; nil before the first.
        package var ageSeconds: Double?

        package init(intervalSeconds: Double?, ageSeconds: Double?) {
            self.intervalSeconds = intervalSeconds
            self.ageSeconds = ageSeconds
        }
    }

    /// As many missed canaries make a daemon unhealthy, also from its start. One may be lost to a change of membership.
    package static let intervalsMax = 3.0

    /// `/readyz`: whether requests are served at this moment.
    /// - Parameter refusal: why they are not; nil when they are.
    package init(
        readiness refusal: String?, rank: Int?, release: String, epoch: UInt64?, canary: Canary
    ) {
        ok = refusal == nil
        ready = ok
        reason = Self.oneLine(refusal ?? "")
        self.rank = rank
        self.release = release
        self.epoch = epoch
        self.canary = canary
    }

    /// `/healthz`: whether a canary succeeded recently. Without canaries, and while a new daemon waits for its first, it is
    /// the same as the readiness.
    /// - Parameters:
    ///   - failure: what the last canary met, when it failed.
    ///   - runningSeconds: since the start of the daemon.
    package func health(failure: ServiceError?, runningSeconds: Double) -> HealthVerdict {
        var verdict = self
        guard let interval = canary.intervalSeconds else {
            if ok { verdict.reason = "canaries are off (canary-interval: off); ready" }
            return verdict
        }
        let limit = interval * Self.intervalsMax
        if let age = canary.ageSeconds, age <= limit {
            verdict.ok = true
            verdict.reason = ""
            return verdict
        }
        // The first canary of a new coordinator is sent before its ranks have registered. Whether the cluster is still
        // incomplete is in the readiness.
        let wasIncomplete = failure.map { $0.code == .notReady } ?? true
        if canary.ageSeconds == nil, wasIncomplete, runningSeconds <= limit {
            if ok { verdict.reason = "no canary yet, \(Int(runningSeconds)) s after the start; ready" }
            return verdict
        }
        verdict.ok = false
        let cause = failure.map { ": \($0.message)" } ?? (reason.isEmpty ? "" : ": \(reason)")
        verdict.reason = Self.oneLine(
            canary.ageSeconds.map { "no canary succeeded for \(Int($0)) s, but the limit is \(Int(limit)) s\(cause)" }
                ?? "no canary has succeeded yet\(cause)")
        return verdict
    }

    private static func oneLine(_ text: String) -> String {
        text.split(whereSeparator: \.isNewline).joined(separator: " ")
    }
}
