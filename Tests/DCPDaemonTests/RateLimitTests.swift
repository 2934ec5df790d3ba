// SPDX-License-Identifier: Apache-2.0

import DCPDaemon
import DCPTestKit
import Testing

@Suite("The bound on entries of one cause")
struct RateLimitTests {
    @Test("a burst is written, then one a period, and what was held back is counted once")
    func burst() {
        var limit = RateLimit(burst: 3, period: .seconds(10))
        var written = (0..<10).map { _ in limit.admit("a", now: .zero).isWritten }
        #expect(written == [true, true, true] + Array(repeating: false, count: 7))
        #expect(limit.admit("a", now: .seconds(9)) == .init(isWritten: false, suppressed: 0))
        #expect(limit.admit("a", now: .seconds(10)) == .init(isWritten: true, suppressed: 8))
        #expect(limit.admit("a", now: .seconds(10)) == .init(isWritten: false, suppressed: 0))
        // A long silence restores the burst, and not more.
        written = (0..<5).map { _ in limit.admit("a", now: .seconds(1000)).isWritten }
        #expect(written == [true, true, true, false, false])
    }

    @Test("causes do not hold each other back")
    func causes() {
        var limit = RateLimit(burst: 1, period: .seconds(10))
        #expect(limit.admit("a", now: .zero).isWritten)
        #expect(limit.admit("b", now: .zero).isWritten)
        #expect(!limit.admit("a", now: .zero).isWritten)
    }

    @Test("a cause is written at most burst + time / period times, and each entry is written or counted as suppressed")
    func random() {
        var generator = SeededGenerator.ofRun(salt: 31)
        let burst = Int.random(in: 1...5, using: &generator)
        var limit = RateLimit(burst: burst, period: .seconds(2), causesMax: 8)
        var now = Duration.zero
        var (written, told, offered) = (0, 0, 0)
        for _ in 0..<2000 {
            now += .milliseconds(Int.random(in: 0...500, using: &generator))
            let verdict = limit.admit("a", now: now)
            offered += 1
            written += verdict.isWritten ? 1 : 0
            told += verdict.suppressed
            // Others come and go, fewer at a time than are remembered.
            _ = limit.admit("other \(Int.random(in: 0..<6, using: &generator))", now: now)
        }
        #expect(written <= burst + Int(now.components.seconds) / 2 + 1)
        let last = limit.admit("a", now: now + .seconds(2))
        #expect(last.isWritten)
        #expect(written + 1 + told + last.suppressed == offered + 1)
    }
}
