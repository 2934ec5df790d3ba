// SPDX-License-Identifier: Apache-2.0

import DCPCore
import Testing

@Suite("own heads")
struct HeadPartitionTests {
    @Test(
        "TRAPS 27: slices join to all heads in rank order, and differ by one head at most",
        arguments: [(1, 1), (9, 3), (8, 8), (32, 8), (64, 8), (128, 1), (48, 6)], [1, 2, 3, 4, 5, 7, 8, 16, 40])
    func slices(heads: (Int, Int), ranks: Int) {
        let partition = HeadPartition(queryHeads: heads.0, kvHeads: heads.1, contextRanks: ranks)
        let slices = (0..<ranks).map { partition.ownHeads(ofRank: $0) }
        #expect(slices.flatMap { Array($0) } == Array(0..<heads.0))
        let counts = slices.map(\.count)
        #expect((counts.max() ?? 0) - (counts.min() ?? 0) <= 1)
    }

    @Test("SmolLM2's 9 heads on 2, 4, 8 and 16 ranks, with empty slices")
    func nineHeads() {
        for (ranks, expected) in [
            (2, [5, 4]), (4, [3, 2, 2, 2]), (8, [2, 1, 1, 1, 1, 1, 1, 1]),
            (16, [Int](repeating: 1, count: 9) + [Int](repeating: 0, count: 7)),
        ] {
            let partition = HeadPartition(queryHeads: 9, kvHeads: 3, contextRanks: ranks)
            #expect((0..<ranks).map { partition.ownHeads(ofRank: $0).count } == expected)
        }
    }

    @Test("TRAPS 28: a query head reads the same KV head wherever it is computed")
    func kvHeads() {
        for ranks in [1, 2, 4, 8, 16] {
            let partition = HeadPartition(queryHeads: 9, kvHeads: 3, contextRanks: ranks)
            let read = (0..<ranks).flatMap { rank in
                partition.ownHeads(ofRank: rank).map { partition.kvHead(ofQueryHead: $0) }
            }
            #expect(read == [0, 0, 0, 1, 1, 1, 2, 2, 2])
        }
    }
}
