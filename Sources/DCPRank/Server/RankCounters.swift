// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
package import DCPObservability
package import DCPTransport
package import DCPWire
package import NIOCore

/// A rank's counters since its start. Confined to the event loop, which hands out copies.
package struct RankCounters: Sendable {
    package var decodeSteps = Histogram(.seconds)
    package var prefillSteps = Histogram(.seconds)
    package var stepCompute = Histogram(.seconds)
    package var stepExchange = Histogram(.seconds)
    package var stepsAborted = CauseCounts([.staleEpoch, .rankUnavailable, .deadlineExceeded, .overloaded, .storeFull])
    /// Tokens of completed steps, at the first layer.
    package var tokens: UInt64 = 0
    package var commits = Histogram(.seconds)
    package var commitsFailed = CauseCounts([.storeFull, .storeDamaged])
    package var prefixMatches = PrefixMatches()
    /// Connections closed because of the peer's identity or frames, including those refused before their first frame.
    package var framesRefused = CauseCounts([.incompatible, .protocolViolation])
    package var peersLost: UInt64 = 0
    /// Claims of clients that had gone, whose uncommitted tokens were rolled back.
    package var claimsEnded: UInt64 = 0
    /// Of links that are closed; open ones are added when asked.
    package var receivedByteCount: UInt64 = 0
    package var sentByteCount: UInt64 = 0
    package var memoryTraffic = SharedRings.Traffic()
    /// Of the completed steps.
    package var stepTimes = StepTimes()

    /// When a canary's decode step last went through this rank.
    package var lastCanary: NIODeadline?

    package var stepsCompleted: UInt64 { decodeSteps.count &+ prefillSteps.count }
}

extension RankCounters {
    /// A step's answer has left.
    mutating func completed(_ step: StepExecution, _ times: StepTimes, at now: NIODeadline) {
        let isDecode = step.request.entries.allSatisfy { $0.count == 1 }
        if isDecode {
            decodeSteps.observe(times.total)
        } else {
            prefillSteps.observe(times.total)
        }
        stepCompute.observe(times.newTokens &+ times.context)
        stepExchange.observe(times.queryWait &+ times.partialWait)
        stepTimes += times
        if step.tag.layer == 0 { tokens &+= UInt64(step.plan.tokens) }
        if isDecode, step.isCanary { lastCanary = now }
    }
}

/// How the searches for stored prefixes came out.
package struct PrefixMatches: Sendable {
    /// By the tokens that they found.
    package private(set) var found = Histogram(.tokens)
    package private(set) var missed: UInt64 = 0
    package private(set) var failed: UInt64 = 0

    mutating func note(_ result: Result<MatchTokens.Reply, ServiceError>) {
        switch result.map(\.found) {
        case .success(let match?): found.observe(UInt64(match.length))
        case .success(nil): missed += 1
        case .failure: failed += 1
        }
    }
}

extension Histogram {
    /// A length of time, in a histogram of seconds.
    package mutating func observe(_ time: TimeAmount) { observe(UInt64(max(time.nanoseconds, 0))) }
}
