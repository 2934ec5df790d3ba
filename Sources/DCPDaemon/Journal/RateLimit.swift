// SPDX-License-Identifier: Apache-2.0

/// Bounds how often one cause is written: a peer that is refused ten times a second is one piece of news, not ten.
///
/// A value without a clock. Each cause has a burst, which fills up again at one entry a period; what was held back is
/// counted and told by the next entry of the cause.
package struct RateLimit {
    package struct Verdict: Equatable {
        package var isWritten: Bool
        /// Entries of this cause that were held back since the last one that was written.
        package var suppressed: Int

        package init(isWritten: Bool, suppressed: Int) {
            self.isWritten = isWritten
            self.suppressed = suppressed
        }
    }

    private struct Bucket {
        var tokens: Double
        var updated: Duration
        var suppressed = 0
    }

    let burst: Int
    let period: Duration
    /// Number of causes; the one unused for the longest time is dropped.
    let causesMax: Int
    private var buckets: [String: Bucket] = [:]

    package init(burst: Int = 5, period: Duration = .seconds(10), causesMax: Int = 256) {
        precondition(burst >= 1 && causesMax >= 1)
        self.burst = burst
        self.period = period
        self.causesMax = causesMax
    }

    package mutating func admit(_ cause: String, now: Duration) -> Verdict {
        var bucket = buckets[cause] ?? Bucket(tokens: Double(burst), updated: now)
        bucket.tokens = min(Double(burst), bucket.tokens + (now - bucket.updated) / period)
        bucket.updated = now
        if buckets[cause] == nil { makeRoom() }
        defer { buckets[cause] = bucket }
        guard bucket.tokens >= 1 else {
            bucket.suppressed += 1
            return Verdict(isWritten: false, suppressed: 0)
        }
        let verdict = Verdict(isWritten: true, suppressed: bucket.suppressed)
        bucket.tokens -= 1
        bucket.suppressed = 0
        return verdict
    }

    private mutating func makeRoom() {
        guard buckets.count >= causesMax, let oldest = buckets.min(by: { $0.value.updated < $1.value.updated }) else {
            return
        }
        buckets[oldest.key] = nil
    }
}
