// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCore
import DCPRank
import Testing

@Suite("PieceHand: the pieces that a thread takes at once")
struct PieceHandTests {
    /// The pieces of a decode step, as bytes of keys and values that each reads.
    private static func decode(kvHeads: Int, mebibytes: Int) -> [Int] {
        let layout = PanelLayout(
            format: .bfloat16, kvHeads: kvHeads, keyDim: 128, valueDim: 128, blockTokens: 64)
        let split = WorkSplit(
            partition: HeadPartition(queryHeads: kvHeads * 4, kvHeads: kvHeads, contextRanks: 1),
            heads: 0..<kvHeads * 4, visible: .all(count: 1, of: (mebibytes << 20) / (kvHeads * 512)), layout: layout,
            rowsMax: 64)
        return split.pieces.map { $0.keys.count * kvHeads * 512 }
    }

    @Test("1 to 32 threads that take hand after hand are busy for 85 % of the time", arguments: [8, 4, 2])
    func balance(kvHeads: Int) {
        for mebibytes in [1, 4, 16, 128, 200, 333, 1000, 4096] {
            let costs = Self.decode(kvHeads: kvHeads, mebibytes: mebibytes)
            for threads in 1...32 {
                let hands = PieceHand.ranges(of: costs, threads: threads)
                #expect(hands.flatMap(\.self) == Array(costs.indices))
                // Pieces as they are, where they are fewer than 16 for each thread.
                let alone = Self.busy(costs, threads)
                let busy = Self.busy(hands.map { costs[$0].reduce(0, +) }, threads)
                #expect(busy >= min(alone, 0.85), "\(threads) threads, \(mebibytes) MiB in \(hands.count) hands")
            }
        }
    }

    /// The share of the time in which threads have something to do.
    private static func busy(_ costs: [Int], _ threads: Int) -> Double {
        var ends = [Int](repeating: 0, count: threads)
        for cost in costs { ends[ends.indices.min { ends[$0] < ends[$1] }!] += cost }
        return Double(costs.reduce(0, +)) / Double(threads * ends.max()!)
    }

    @Test("one thread takes a few dozen hands of a long step, and none that takes longer than a portion may")
    func bound() {
        let costs = [Int](repeating: PieceRun.multiplicationsMax / 8, count: 256)
        #expect(PieceHand.ranges(of: costs, threads: 1) == (0..<32).map { $0 * 8..<$0 * 8 + 8 })
        let long = [1, PieceRun.multiplicationsMax, 1, 2, PieceRun.multiplicationsMax * 2, 3]
        for threads in [1, 2, 64] {
            for hand in PieceHand.ranges(of: long, threads: threads) where hand.count > 1 {
                #expect(long[hand].reduce(0, +) <= PieceRun.multiplicationsMax)
            }
        }
        #expect(PieceHand.ranges(of: [], threads: 3).isEmpty)
    }
}
