// SPDX-License-Identifier: Apache-2.0

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
            #expect(verdict(refusal, interval: 10, age: 30).health(failure: nil).ok)
            let late = verdict(refusal, interval: 10, age: 31).health(failure: "rank 2 is gone")
            #expect(!late.ok && late.reason.contains("31 s") && late.reason.contains("30 s"), "\(late.reason)")
            #expect(late.reason.contains("rank 2 is gone"))
        }
    }

    @Test("before the first canary nothing is healthy")
    func first() {
        let new = verdict(nil, interval: 10, age: nil).health(failure: nil)
        #expect(!new.ok && new.ready && new.reason.contains("no canary has succeeded yet"))
    }

    @Test("with canaries off health reports the same as readiness, and says so")
    func off() {
        let good = verdict(nil, interval: nil, age: nil).health(failure: nil)
        #expect(good.ok && good.reason.contains("off"))
        let bad = verdict("joining epoch 3", interval: nil, age: nil).health(failure: nil)
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
