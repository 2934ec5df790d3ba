// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPWire
internal import NIOCore

/// What the computations of a step take on one thread, roughly, and from its shape alone: by it they are placed. Of a Zen 4
/// with vector kernels, for contexts in memory.
extension StepPlan {
    private static let bytesPerNanosecond = 20
    private static let operationsPerNanosecond = 100
    /// Fewer rows at once, over blocks that have just been made.
    private static let newTokenOperationsPerNanosecond = 20

    /// An entry of a decode step brings at most so many tokens: one, and what speculative decoding proposes after it.
    static let decodeTokensMax = 32

    /// Where the pieces of its computations wait.
    var line: PieceQueue.Line { entries.contains { $0.count > Self.decodeTokensMax } ? .prefill : .decode }

    private func time(_ nanoseconds: Int) -> TimeAmount { .nanoseconds(Int64(clamping: nanoseconds)) }

    /// Bytes of a token's keys and values in the cache of a rank.
    private var rowByteCount: Int {
        attention.keptByteCount(kvFormat) / attention.kvHeads * partition.kvHeads
    }

    /// Of multiplications and additions for one query head and token, for each token that it sees.
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

    /// Attention of the own heads over the step's own tokens.
    var newTokensTime: TimeAmount {
        entries.reduce(.zero) { sum, entry in
            guard entry.count > 1 else { return sum + time(500 + rowByteCount / 4 + ownHeads.count * operations / 10) }
            // Each sees half of them.
            let computing =
                entry.count * entry.count * ownHeads.count * operations / (2 * Self.newTokenOperationsPerNanosecond)
            return sum + time(8_000 + entry.count * rowByteCount / 2 + computing)
        }
    }

    /// The check of a step's tensors, and putting the own tokens into the cache.
    func appendTime(of request: StepRequest) -> TimeAmount {
        time(entries.count * 2_000 + request.payloadByteCount / 4)
    }

    /// Adding up the parts of as many rows, from so many ranks.
    func mergeTime(rows: Int) -> TimeAmount {
        time(2_000 + (members + 1) * rows * attention.valueDim / 2)
    }
}
