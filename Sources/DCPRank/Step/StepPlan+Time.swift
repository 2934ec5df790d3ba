// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPWire
internal import NIOCore

/// Estimates of how long the computations of a step take on one thread, from its shape alone; they decide where each
/// runs. Measured on a Zen 4 with vector kernels, for contexts in memory.
extension StepPlan {
    private static let bytesPerNanosecond = 20
    private static let operationsPerNanosecond = 100
    /// Fewer rows at once, over blocks that were just made.
    private static let newTokenOperationsPerNanosecond = 20

    /// The most tokens of an entry of a decode step: one, and those that speculative decoding proposes after it.
    static let decodeTokensMax = 32

    /// The line in which the pieces of its computations wait.
    var line: PieceQueue.Line { entries.contains { $0.count > Self.decodeTokensMax } ? .prefill : .decode }

    private func time(_ nanoseconds: Int) -> TimeAmount { .nanoseconds(Int64(clamping: nanoseconds)) }

    /// Bytes of a token's keys and values in a rank's cache.
    private var rowByteCount: Int {
        attention.keptByteCount(kvFormat) / attention.kvHeads * partition.kvHeads
    }

    /// Multiply-adds of a query head and token for each token that it sees.
    private var operations: Int { 2 * (attention.keyDim + attention.valueDim) }

    /// Attention over this rank's shard.
    var contextTime: TimeAmount {
        entries.reduce(.zero) { sum, entry in
            let seen = seenTokens(of: entry)
            let reading = seen * rowByteCount / Self.bytesPerNanosecond
            let computing = seen * entry.count * partition.queryHeads * operations / Self.operationsPerNanosecond
            return sum + time(10_000 + max(reading, computing))
        }
    }

    /// Attention of this rank's heads over the step's tokens.
    var newTokensTime: TimeAmount {
        entries.reduce(.zero) { sum, entry in
            guard entry.count > 1 else { return sum + time(500 + rowByteCount / 4 + ownHeads.count * operations / 10) }
            // On average each sees half of them.
            let computing =
                entry.count * entry.count * ownHeads.count * operations / (2 * Self.newTokenOperationsPerNanosecond)
            return sum + time(8_000 + entry.count * rowByteCount / 2 + computing)
        }
    }

    /// The check of a step's tensors, and the append of this rank's tokens.
    func appendTime(of request: StepRequest) -> TimeAmount {
        time(entries.count * 2_000 + request.payloadByteCount / 4)
    }

    /// Merging this many rows, from all ranks.
    func mergeTime(rows: Int) -> TimeAmount {
        time(2_000 + (members + 1) * rows * attention.valueDim / 2)
    }
}
