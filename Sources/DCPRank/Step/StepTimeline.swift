// SPDX-License-Identifier: Apache-2.0

package import DCPWire
package import NIOCore

/// When the parts of one step happened on this rank, on the monotonic clock.
///
/// Kept by the shell: the machine has no clock. Moments of the event loop, so that what waits for the loop is waiting.
package struct StepTimeline {
    package let arrival: NIODeadline
    /// The queries of all ranks are there, and all tokens before the step's; nil for a step without context.
    package var contextReady: NIODeadline?
    /// The own context partial is there.
    package var partialReady: NIODeadline?
    /// Everything that is to be merged is there.
    package var mergeReady: NIODeadline?
    package var merged: NIODeadline?
    package var newTokens: ComputeSpan?
    package var context: ComputeSpan?

    package init(arrival: NIODeadline) { self.arrival = arrival }

    /// What the step took, up to its reply.
    package func times(replied: NIODeadline) -> StepTimes {
        let queryWait = contextReady.map { Span(arrival, $0) }
        let partialWait = partialReady.flatMap { ready in mergeReady.map { Span(ready, $0) } }
        let merge = mergeReady.flatMap { ready in merged.map { Span(ready, $0) } }
        let newTokens = newTokens.map { Span($0.begin, $0.end) }
        let context = context.map { Span($0.begin, $0.end) }
        let total = Span(arrival, replied)
        let named = Span.union([queryWait, newTokens, context, partialWait, merge].compactMap { $0 })
        var times = StepTimes()
        times.total = total.nanoseconds
        times.newTokens = newTokens?.nanoseconds ?? 0
        times.context = context?.nanoseconds ?? 0
        times.kernels = [self.newTokens, self.context].reduce(0) {
            $0 + UInt64(max($1?.kernelTime.nanoseconds ?? 0, 0))
        }
        times.queryWait = queryWait?.nanoseconds ?? 0
        times.partialWait = partialWait?.nanoseconds ?? 0
        times.merge = merge?.nanoseconds ?? 0
        times.other = total.nanoseconds - min(named, total.nanoseconds)
        return times
    }

    private struct Span {
        let begin: UInt64
        let end: UInt64

        init(_ begin: NIODeadline, _ end: NIODeadline) {
            self.begin = begin.uptimeNanoseconds
            self.end = max(begin, end).uptimeNanoseconds
        }

        var nanoseconds: UInt64 { end - begin }

        /// The time that at least one span covers.
        static func union(_ spans: [Span]) -> UInt64 {
            var covered: UInt64 = 0
            var reached: UInt64 = 0
            for span in spans.sorted(by: { $0.begin < $1.begin }) where span.end > reached {
                covered += span.end - max(span.begin, reached)
                reached = span.end
            }
            return covered
        }
    }
}
