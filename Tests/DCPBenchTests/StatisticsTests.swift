// SPDX-License-Identifier: Apache-2.0

import DCPBench
import DCPTestKit
import Foundation
import Testing

@Suite("statistics")
struct StatisticsTests {
    @Test("median: of an odd count the middle, of an even count half-way, whatever the order")
    func median() {
        #expect(Samples([3, 1, 2]).median == 2)
        #expect(Samples([4, 1, 3, 2]).median == 2.5)
        #expect(Samples([7]).median == 7)
        var random = SeededGenerator.ofRun(salt: 1)
        let shuffled = (0...1000).map(Double.init).shuffled(using: &random)
        #expect(Samples(shuffled).median == 500)
        #expect(Samples(shuffled).values == shuffled, "in the order they were measured")
    }

    @Test("percentiles: ends are the least and the greatest, between neighbours by interpolation")
    func percentiles() {
        let samples = Samples([10, 20, 30, 40, 50])
        #expect(samples.percentile(0) == 10 && samples.percentile(100) == 50)
        #expect(samples.percentile(25) == 20)
        #expect(samples.percentile(90) == 46)
        #expect(Samples([5]).percentile(99) == 5)
    }

    @Test("a mapped sample's percentiles are those of the mapped values, also when the order turns")
    func mapped() {
        let rates = Samples([1, 2, 4]).map { 8 / $0 }
        #expect(rates.values == [8, 4, 2] && rates.median == 4 && rates.percentile(0) == 2)
    }

    @Test("repetition: as many runs as asked, after one to warm up, one body after the other")
    func repetition() throws {
        var order: [String] = []
        let times = try Repetition(runs: 3).measure(
            until: Interruption(),
            timed: [
                {
                    order.append("a"); return 1
                },
                {
                    order.append("b"); return 2
                },
            ])
        #expect(order == ["a", "b", "a", "b", "a", "b", "a", "b"])
        #expect(times.map(\.values) == [[1, 1, 1], [2, 2, 2]])
    }

    @Test("repetition: without a number at least the least, until the time is over or the most is reached")
    func bounds() {
        let repetition = Repetition(runs: nil, seconds: 2, runsMin: 5, runsMax: 7)
        #expect(repetition.wantsAnother(after: 4, elapsed: 100))
        #expect(repetition.wantsAnother(after: 5, elapsed: 1.9))
        #expect(!repetition.wantsAnother(after: 5, elapsed: 2.1))
        #expect(!repetition.wantsAnother(after: 7, elapsed: 0))
        #expect(!Repetition(runs: 1).wantsAnother(after: 1, elapsed: 0))
    }

    @Test("an interrupted measurement ends before its next run")
    func interruption() {
        let interruption = Interruption()
        var runs = 0
        #expect(throws: CancellationError.self) {
            try Repetition(runs: 100).measure(
                until: interruption,
                timed: [
                    {
                        runs += 1
                        if runs == 3 { interruption.interrupt() }
                        return 1
                    }
                ])
        }
        #expect(runs == 3)
    }
}
