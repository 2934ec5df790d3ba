// SPDX-License-Identifier: Apache-2.0

import DCPCore
import Testing

@Suite("shards")
struct ShardTests {
    @Test("a shard has the tokens that dealing them out one by one gives", arguments: 1...5, [1, 3, 16])
    func dealing(ranks: Int, interleave: Int) throws {
        let layout = try ContextLayout(contextRanks: ranks, interleave: interleave, blockTokens: 48)
        for rank in 0..<ranks {
            let shard = Shard(layout, contextRank: rank)
            let owned = (0..<600).filter { layout.owner(ofPosition: $0) == rank }
            for (start, end) in [(0, 0), (0, 1), (5, 6), (7, 15), (48, 48), (47, 300), (96, 97), (299, 600)] {
                let expected = owned.indices.filter { (start..<end).contains(owned[$0]) }
                let range = shard.range(of: Range<Position>(start..<end))
                #expect(range.map(\.value) == expected)
                #expect(range.map { shard.position(of: $0).value } == expected.map { owned[$0] })
                #expect(shard.offsets(of: range, from: Position(start)) == expected.map { UInt32(owned[$0] - start) })
                #expect(shard.count(of: Position(end)) == owned.count { $0 < end })
                #expect(shard.end(of: Position(end)) - shard.end(of: Position(start)) == expected.count)
                #expect(shard.fullBlocks(of: Position(end)) == owned.count { $0 < end } / 48)
                #expect(Array(shard.blocks(of: range)) == Set(expected.map { $0 / 48 }).sorted())
                for index in range {
                    let (block, offset) = shard.block(of: index)
                    #expect(offset < 48 && shard.start(ofBlock: block) + offset == index)
                }
            }
        }
    }
}
