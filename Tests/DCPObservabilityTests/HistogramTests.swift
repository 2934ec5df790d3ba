// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPObservability
import DCPTestKit
import Testing

@Suite("histograms and counts")
struct HistogramTests {
    @Test("a value on a bound counts in that bound's bucket, one above all bounds in the last")
    func bounds() {
        var histogram = Histogram(Histogram.Buckets(bounds: [10, 20], ticksPerUnit: 1))
        for value in [0, 10, 11, 20, 21, UInt64.max / 2] as [UInt64] { histogram.observe(value) }
        #expect(histogram.counts == [2, 2, 2])
        #expect(histogram.count == 6)
        #expect(histogram.sum == 62 + UInt64.max / 2)
    }

    @Test("random values: counts and sum are those of the values")
    func random() {
        let seed = UInt64.random(in: 0...UInt64.max)
        var generator = SeededGenerator(seed: seed)
        for buckets in [Histogram.Buckets.seconds, .init(bounds: [1 << 20, 1 << 30], ticksPerUnit: 1)] {
            var histogram = Histogram(buckets)
            let values = (0..<1000).map { _ in UInt64.random(in: 0...(1 << 40), using: &generator) }
            for value in values { histogram.observe(value) }
            var cumulative: UInt64 = 0
            for (bound, count) in zip(buckets.bounds, histogram.counts) {
                cumulative += count
                #expect(cumulative == UInt64(values.count { $0 <= bound }), "seed \(seed), bound \(bound)")
            }
            #expect(histogram.count == 1000 && histogram.sum == values.reduce(0, +), "seed \(seed)")
        }
    }

    @Test("expected causes start at zero; an unknown code adds no count")
    func causes() {
        var causes = CauseCounts([.staleEpoch])
        causes.count(.incompatible)
        for raw in 5000..<5100 as Range<UInt16> { causes.count(ServiceError.Code(rawValue: raw)) }
        #expect(causes.labelled.map(\.cause) == ["incompatible", "stale_epoch", "internal_error"])
        #expect(causes.labelled.map(\.count) == [1, 0, 100])
        #expect(causes.total == 101)
    }
}
