// SPDX-License-Identifier: Apache-2.0

import DCPCache
import DCPCore
import DCPTestKit
import Testing

@Suite("victims of an eviction")
struct VictimTests {
    private static let tags = (0..<UInt32(4000)).map { $0 }

    /// Blocks of 16 tokens in two layers, each of one page.
    private func rig(_ lengths: [UInt64: Int]) throws -> Rig {
        let rig = try Rig()
        for (id, length) in lengths.sorted(by: { $0.key < $1.key }) {
            try rig.open(id)
            try rig.appendAll(id, at: 0, Array(Self.tags[..<length]))
            if length > 0 { try rig.commit(id, length) }
        }
        return rig
    }

    private func victims(_ rig: Rig, _ order: [UInt64], freeing wanted: Int) -> [UInt64] {
        rig.cache.victims(among: order.map { SequenceID($0) }, freeing: wanted).map(\.value)
    }

    @Test("as many of the first as are needed; an empty sequence and one that is not there free nothing")
    func order() throws {
        let rig = try rig([1: 160, 2: 0, 3: 320, 4: 5])
        // 10 block indices of sequence 1, in two layers.
        let first = 10 * 2 * 4096
        #expect(victims(rig, [2, 9, 1, 3, 4], freeing: 1) == [1])
        #expect(victims(rig, [2, 9, 1, 3, 4], freeing: first) == [1])
        #expect(victims(rig, [2, 9, 1, 3, 4], freeing: first + 1) == [1, 3])
        #expect(victims(rig, [4, 2, 1, 3], freeing: first) == [4, 1], "the rows of an open block take room, too")
        #expect(victims(rig, [2, 1, 3], freeing: 1 << 30) == [1, 3])
        #expect(victims(rig, [3, 1], freeing: 0).isEmpty)
    }

    @Test("blocks shared with a living fork are not freed; with the last of a family all are")
    func families() throws {
        let rig = try rig([1: 160])
        try rig.fork(1, 2, 160)
        try rig.fork(1, 3, 80)
        try rig.fork(2, 4, 160)
        try rig.appendAll(4, at: 160, Array(Self.tags[..<32]))
        try rig.commit(4, 192)
        let block = 2 * 4096
        #expect(victims(rig, [1, 2, 3], freeing: 1).isEmpty, "4 has all of it")
        #expect(victims(rig, [1, 4, 3], freeing: 1) == [4], "its own two blocks; the rest 2 has")
        #expect(victims(rig, [1, 2, 4, 3], freeing: 2 * block) == [1, 2, 4])
        #expect(victims(rig, [1, 2, 4, 3], freeing: 7 * block) == [1, 2, 4], "the upper half of what 3 shares in")
        #expect(victims(rig, [1, 2, 4, 3], freeing: 7 * block + 1) == [1, 2, 4, 3])
        #expect(victims(rig, [3, 1, 4, 2], freeing: 3 * block) == [3, 1, 4, 2])
    }

    @Test("closing the victims frees what was wanted, and sparing any of them frees less", arguments: 0..<4)
    func randomised(_: Int) throws {
        var random = SeededGenerator("victims")
        let rig = try rig([1: 0])
        var lengths: [UInt64: Int] = [1: 0]
        // A block by who wrote it and its index.
        var blocks: [UInt64: Set<[UInt64]>] = [1: []]
        for id in UInt64(2)...24 {
            let parent = UInt64.random(in: 1..<id, using: &random)
            // Cuts and ends at a block's edge, so that there are no rows to count.
            let length = Int.random(in: 0...lengths[parent]! / 16, using: &random) * 16
            try rig.fork(parent, id, length)
            let more = Int.random(in: 0...4, using: &random) * 16
            if more > 0 {
                try rig.appendAll(id, at: length, Array(Self.tags[length..<length + more]))
                try rig.commit(id, length + more)
            }
            lengths[id] = length + more
            blocks[id] = blocks[parent]!.filter { $0[1] < length / 16 }
            for index in length / 16..<(length + more) / 16 { blocks[id]!.insert([id, UInt64(index)]) }
        }
        func freed(_ ids: some Sequence<UInt64>) -> Int {
            let ids = Set(ids)
            let kept = blocks.filter { !ids.contains($0.key) }.reduce(into: Set()) { $0.formUnion($1.value) }
            return blocks.filter { ids.contains($0.key) }.reduce(into: Set()) { $0.formUnion($1.value) }
                .subtracting(kept).count
        }
        let order = Array(lengths.keys.sorted().shuffled(using: &random).prefix(16))
        // Each index is a page in each of two layers.
        let wanted = Int.random(in: 1...20, using: &random)
        let victims = victims(rig, order, freeing: wanted * 2 * 4096)
        #expect(victims == order.filter { victims.contains($0) }, "in the order that was given")
        #expect(freed(victims) >= min(wanted, freed(order)))
        for spared in victims { #expect(freed(victims.filter { $0 != spared }) < freed(victims)) }
        let before = try rig.cache.statistics().sealedBlocks
        for id in victims { try rig.close(id) }
        try rig.settle()
        #expect(before - (try rig.cache.statistics().sealedBlocks) == 2 * freed(victims))
    }
}
