// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import Testing

@Suite("Outages: what a client does about failures")
struct OutagesTests {
    private let lost = ServiceError(.rankUnavailable, "Rank 1 is gone.", rank: RankIndex(1))
    private let full = ServiceError(.storeFull, "The disk is full.")

    @Test("without an allowance, and for what is not retryable, the error is the caller's")
    func givesUp() {
        var none = Outages(allowance: .zero)
        #expect(none.failed(lost, at: .seconds(1)) == .giveUp(lost))
        var some = Outages(allowance: .seconds(30))
        let wrong = ServiceError(.invalidRequest, "No.")
        #expect(some.failed(wrong, at: .seconds(1)) == .giveUp(wrong))
        #expect(!none.isOut && !some.isOut && some.count == 0)
    }

    @Test("at once the first time, then with growing pauses, never beyond what is allowed")
    func pauses() {
        var outages = Outages(allowance: .seconds(30))
        var (now, pauses): (Duration, [Duration]) = (.seconds(100), [])
        while case .retry(let pause, let needsTopology, let patience) = outages.failed(lost, at: now) {
            #expect(needsTopology)
            #expect(pause + patience <= .seconds(130) - now, "no attempt ends after the allowance")
            pauses.append(pause)
            now += pause + .milliseconds(1)
        }
        #expect(pauses.prefix(4) == [.zero, .milliseconds(10), .milliseconds(20), .milliseconds(40)])
        #expect(pauses.max() == Outages.pauseMax)
        #expect(now >= .seconds(130))
        guard case .giveUp(let error) = outages.failed(lost, at: now) else { return }
        #expect(error.code == .rankUnavailable && error.message.contains("30.0 seconds"))
        #expect(error.message.contains("--retry-for"))
    }

    @Test("a new topology is requested after errors that a change of membership may explain", arguments: 100..<110)
    func topology(code: UInt16) {
        let error = ServiceError(ServiceError.Code(rawValue: code), "")
        var outages = Outages(allowance: .seconds(1))
        guard case .retry(_, let needsTopology, _) = outages.failed(error, at: .zero) else {
            Issue.record("\(error.code) is retryable")
            return
        }
        let concerning: Set<ServiceError.Code> = [
            .notReady, .staleEpoch, .rankUnavailable, .shuttingDown, .unreachable, .deadlineExceeded,
        ]
        #expect(needsTopology == concerning.contains(error.code))
    }

    @Test("a success ends the outage, tells its length and what began it, and the next one has the whole allowance")
    func ends() {
        var outages = Outages(allowance: .seconds(10))
        #expect(outages.succeeded(at: .seconds(1)) == nil)
        _ = outages.failed(lost, at: .seconds(2))
        _ = outages.failed(full, at: .seconds(5))
        #expect(outages.isOut && outages.cause == lost)
        let outage = outages.succeeded(at: .seconds(6))
        #expect(outage?.duration == .seconds(4) && outage?.cause == lost)
        #expect(outages.succeeded(at: .seconds(7)) == nil)
        #expect(outages.count == 1 && outages.longest == .seconds(4) && !outages.isOut)
        guard case .retry(.zero, false, let patience) = outages.failed(full, at: .seconds(100)) else {
            Issue.record("a new outage begins with an attempt at once")
            return
        }
        #expect(patience == .seconds(10))
    }
}
