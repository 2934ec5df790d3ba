// SPDX-License-Identifier: Apache-2.0

/// A histogram of durations or sizes: counts in fixed buckets, and the sum.
///
/// A value without a clock and without a lock: its owner observes on its own thread and hands out copies. Observing is
/// a search over some twenty bounds. Whole numbers inside, so that the same observations give the same bytes of text.
public struct Histogram: Hashable, Sendable {
    /// Upper bounds, inclusive and rising, and what they are counted in.
    public struct Buckets: Hashable, Sendable {
        /// In ticks.
        public let bounds: [UInt64]
        /// Ticks of one base unit.
        public let ticksPerUnit: UInt64

        public init(bounds: [UInt64], ticksPerUnit: UInt64) {
            precondition(!bounds.isEmpty && ticksPerUnit > 0)
            precondition(zip(bounds, bounds.dropFirst()).allSatisfy { $0 < $1 })
            self.bounds = bounds
            self.ticksPerUnit = ticksPerUnit
        }

        /// Seconds, counted in nanoseconds, from 100 us to a minute: a decode step over a cached context takes some hundred
        /// microseconds, the longest step that anybody waits for a minute. About two and a half times from bound to bound,
        /// so that a quantile is right within that.
        public static let seconds = Buckets(
            bounds: [
                100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000,
                100_000_000, 250_000_000, 500_000_000, 1_000_000_000, 2_500_000_000, 5_000_000_000, 10_000_000_000,
                30_000_000_000, 60_000_000_000,
            ], ticksPerUnit: 1_000_000_000)

        /// Tokens, from a short question to the longest contexts, four times from bound to bound.
        public static let tokens = Buckets(
            bounds: [16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576], ticksPerUnit: 1)
    }

    public let buckets: Buckets
    /// Observations up to each bound and above the one before it; the last counts those above all bounds.
    public private(set) var counts: [UInt64]
    /// In ticks.
    public private(set) var sum: UInt64 = 0

    public init(_ buckets: Buckets) {
        self.buckets = buckets
        counts = Array(repeating: 0, count: buckets.bounds.count + 1)
    }

    public var count: UInt64 { counts.reduce(0, &+) }

    /// - Parameter ticks: nanoseconds for seconds.
    public mutating func observe(_ ticks: UInt64) {
        let place = buckets.bounds.firstIndex { ticks <= $0 } ?? buckets.bounds.count
        counts[place] &+= 1
        sum &+= ticks
    }
}
