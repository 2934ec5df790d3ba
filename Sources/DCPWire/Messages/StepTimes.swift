// SPDX-License-Identifier: Apache-2.0

package import DCPCore

/// Durations of the parts of steps on one rank, in nanoseconds.
///
/// A rank's status has their sums over all completed steps since its start, so that the difference of two answers
/// covers the time between them. Parts overlap and need not add up to the total: for example, the rank computes the new
/// tokens while it waits for queries.
public struct StepTimes: Hashable, Sendable {
    /// From the request's arrival to the reply.
    public var total: UInt64 = 0
    /// Attention over the step's own tokens, from its start on a thread to its end.
    public var newTokens: UInt64 = 0
    /// Attention over the shard, likewise.
    public var context: UInt64 = 0
    /// In kernels, for both, summed over the compute threads.
    public var kernels: UInt64 = 0
    /// From the arrival until all ranks' queries, and all tokens before the step's, are available.
    public var queryWait: UInt64 = 0
    /// From the rank's own context partial until everything to merge is available. Includes the wait for a slower rank.
    public var partialWait: UInt64 = 0
    /// Merging, including the wait for a thread.
    public var merge: UInt64 = 0
    /// Everything else: waits for a thread before attention, for the append and for the commit before the reply.
    public var other: UInt64 = 0

    public init() {}

    /// Field by field, by name: a list of key paths is made and read at each call, which took the event loop microseconds a step.
    private static func combined(
        _ a: StepTimes, _ b: StepTimes, _ operation: (UInt64, UInt64) -> UInt64
    ) -> StepTimes {
        var times = StepTimes()
        times.total = operation(a.total, b.total)
        times.newTokens = operation(a.newTokens, b.newTokens)
        times.context = operation(a.context, b.context)
        times.kernels = operation(a.kernels, b.kernels)
        times.queryWait = operation(a.queryWait, b.queryWait)
        times.partialWait = operation(a.partialWait, b.partialWait)
        times.merge = operation(a.merge, b.merge)
        times.other = operation(a.other, b.other)
        return times
    }

    /// A sum wraps after five centuries.
    public static func += (sums: inout StepTimes, times: StepTimes) { sums = combined(sums, times, &+) }

    /// The difference to an earlier answer of the same process.
    public static func - (later: StepTimes, earlier: StepTimes) -> StepTimes { combined(later, earlier, &-) }

    /// The mean of so many.
    public static func / (sums: StepTimes, count: Int) -> StepTimes {
        combined(sums, sums) { sum, _ in sum / UInt64(count) }
    }

    package init(from reader: inout WireReader) throws(ServiceError) {
        for field in Self.fields { self[keyPath: field] = try reader.read("step time") }
    }

    package func encode(to writer: inout WireWriter) {
        for field in Self.fields { writer.write(self[keyPath: field]) }
    }

    /// In their order on the wire.
    private static var fields: [WritableKeyPath<StepTimes, UInt64>] {
        [\.total, \.newTokens, \.context, \.kernels, \.queryWait, \.partialWait, \.merge, \.other]
    }
}
