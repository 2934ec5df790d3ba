// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPDaemon
import Testing

@Suite("health and readiness")
struct HealthVerdictTests {
    private func verdict(_ refusal: String?, interval: Double?, age: Double?) -> HealthVerdict {
        HealthVerdict(
            readiness: refusal, rank: 1, release: "1", epoch: 4,
            canary: HealthVerdict.Canary(intervalSeconds: interval, ageSeconds: age))
    }

    @Test("healthy up to three intervals after a canary, whatever the readiness says")
    func age() {
        for refusal in [nil, "draining"] {
            #expect(verdict(refusal, interval: 10, age: 30).health(failure: nil, runningSeconds: 500).ok)
            let late = verdict(refusal, interval: 10, age: 31).health(
                failure: ServiceError(.rankUnavailable, "rank 2 is gone"), runningSeconds: 31)
            #expect(!late.ok && late.reason.contains("31 s") && late.reason.contains("30 s"), "\(late.reason)")
            #expect(late.reason.contains("rank 2 is gone"))
        }
    }

    @Test("before the first canary, up to three intervals after the start, health is readiness")
    func first() {
        let early = ServiceError(.notReady, "The cluster is not ready: rank 2 is missing.")
        for failure in [nil, early] {
            let new = verdict(nil, interval: 10, age: nil).health(failure: failure, runningSeconds: 30)
            #expect(new.ok && new.reason.contains("no canary yet, 30 s"), "\(new.reason)")
            let joining = verdict("joining epoch 3", interval: 10, age: nil).health(
                failure: failure, runningSeconds: 30)
            #expect(!joining.ok && joining.reason == "joining epoch 3")
            let late = verdict(nil, interval: 10, age: nil).health(failure: failure, runningSeconds: 31)
            #expect(!late.ok && late.ready && late.reason.contains("no canary has succeeded yet"), "\(late.reason)")
            #expect(failure == nil || late.reason.contains("rank 2 is missing"))
        }
    }

    @Test("a first canary that fails in a complete cluster is not waited for")
    func firstFails() {
        let wrong = ServiceError(.internal, "The canary's answer is off by 1.0")
        let new = verdict(nil, interval: 10, age: nil).health(failure: wrong, runningSeconds: 1)
        #expect(!new.ok && new.reason.contains("no canary has succeeded yet: The canary's answer is off"))
    }

    @Test("with canaries off health reports the same as readiness, and says so")
    func off() {
        let good = verdict(nil, interval: nil, age: nil).health(failure: nil, runningSeconds: 500)
        #expect(good.ok && good.reason.contains("off"))
        let bad = verdict("joining epoch 3", interval: nil, age: nil).health(failure: nil, runningSeconds: 500)
        #expect(!bad.ok && bad.reason == "joining epoch 3")
    }

    @Test("a reason is one line")
    func line() { #expect(verdict("a\nb\r\nc", interval: nil, age: nil).reason == "a b c") }

    @Test(
        "addresses",
        arguments: [
            ("127.0.0.1:9470", true, true), ("[::1]:9470", true, true), ("unix:/run/x.http", true, true),
            ("0.0.0.0:9470", true, false), ("192.0.2.1:80", true, false), ("localhost:9470", false, false),
            ("127.0.0.1", false, false), ("127.0.0.1:70000", false, false), ("unix:", false, false),
            ("unix:/" + String(repeating: "x", count: 107), false, false), ("9470", false, false),
        ])
    func address(_ text: String, isGood: Bool, isLocal: Bool) {
        let address = HTTPAddress(text)
        #expect((address != nil) == isGood)
        #expect(address.map(\.isLocal) ?? false == isLocal)
        #expect((HTTPAddress.refusal(text) == nil) == isGood)
        if let address { #expect(address.description == text) }
    }
}
