// SPDX-License-Identifier: Apache-2.0

import DCPCache
import DCPCore
import Testing

@Suite("fork, truncate, close")
struct ForkTests {
    static let tags = (0..<UInt32(200)).map { $0 &* 77 &+ 3 }

    private func rig(_ length: Int = 100) throws -> Rig {
        let rig = try Rig(rank: 1, ranks: 2, interleave: 4)
        try rig.open(1)
        try rig.appendAll(1, at: 0, Array(Self.tags[..<length]))
        try rig.commit(1, length)
        return rig
    }

    @Test(
        "a fork has its parent's tokens, and both continue independently",
        arguments: [0, 1, 5, 31, 32, 33, 64, 96, 98, 100])
    func fork(_ length: Int) throws {
        let rig = try rig()
        let blocks = try rig.cache.statistics().sealedBlocks
        try rig.fork(1, 2, length)
        #expect(try rig.cache.statistics().sealedBlocks == blocks, "nothing sealed is copied")
        try rig.appendAll(2, at: length, [8000, 8001, 8002])
        try rig.commit(2, length + 3)
        try rig.appendAll(1, at: 100, Array(Self.tags[100..<150]))
        try rig.commit(1, 150)
        for _ in 0..<2 {
            #expect(try rig.holds(1, Array(Self.tags[..<150])))
            #expect(try rig.holds(2, Array(Self.tags[..<length]) + [8000, 8001, 8002]))
            try rig.reopen()
        }
        try rig.fork(1, 2, length)
        expect(.conflict, "sequence #2") { try rig.fork(1, 2, length + 1) }
        expect(.conflict, "sequence #2") { try rig.open(2) }
    }

    @Test("truncating and closing a parent leaves its forks, and their forks, alone; the last one frees the blocks")
    func lifetimes() throws {
        let rig = try rig()
        try rig.fork(1, 2, 90)
        try rig.fork(2, 3, 70)
        try rig.truncate(1, 40)
        // The parent seals blocks again that its forks still hold under the same indices.
        try rig.appendAll(1, at: 40, [UInt32](repeating: 5, count: 60))
        try rig.commit(1, 100)
        let parent = Array(Self.tags[..<40]) + [UInt32](repeating: 5, count: 60)
        for _ in 0..<2 {
            #expect(try rig.holds(1, parent))
            #expect(try rig.holds(2, Array(Self.tags[..<90])))
            #expect(try rig.holds(3, Array(Self.tags[..<70])))
            try rig.reopen()
        }
        try rig.close(2)
        try rig.settle()
        #expect(try rig.holds(1, parent))
        #expect(try rig.holds(3, Array(Self.tags[..<70])))
        // Rank 1 of 2: 50 local tokens are 3 blocks, 2 of them written again; the fork's 35 are 2 of the old ones.
        #expect(try rig.cache.statistics().sealedBlocks == 2 * (3 + 1))
        try rig.close(1)
        try rig.settle()
        #expect(try rig.cache.statistics().sealedBlocks == 2 * 2)
        #expect(try rig.holds(3, Array(Self.tags[..<70])))
        try rig.close(3)
        try rig.settle()
        #expect(try rig.cache.statistics().sealedBlocks == 0)
        #expect(rig.cache.sequences.isEmpty)
        try rig.reopen()
        #expect(try rig.cache.statistics().sealedBlocks == 0)
    }

    @Test("truncate", arguments: [0, 1, 31, 32, 33, 40, 63, 64, 65, 96, 99, 100])
    func truncate(_ length: Int) throws {
        let rig = try rig()
        try rig.appendAll(1, at: 100, [1, 2, 3])
        try rig.truncate(1, length)
        try rig.truncate(1, length)
        #expect(try rig.state(1).committedLength == Position(length))
        #expect(try rig.state(1).layerLengths.map(\.value) == [length, length])
        #expect(try rig.holds(1, Array(Self.tags[..<length])))
        try rig.reopen()
        #expect(try rig.holds(1, Array(Self.tags[..<length])))
        try rig.appendAll(1, at: length, Array(Self.tags[length...]))
        try rig.commit(1, 200)
        try rig.reopen()
        #expect(try rig.holds(1, Self.tags))
        expect(.invalidRequest, "200", "201") { try rig.truncate(1, 201) }
        expect(.invalidRequest, "200", "201") { try rig.fork(1, 2, 201) }
    }

    @Test("operations can be repeated, and say what is wrong")
    func repeats() throws {
        let rig = try rig()
        try rig.open(1)
        try rig.commit(1, 50)
        #expect(try rig.state(1).committedLength == 100)
        try rig.close(1)
        try rig.close(1)
        expect(.unknownSequence, "sequence #1") { try rig.truncate(1, 0) }
        expect(.unknownSequence, "sequence #1") { try rig.fork(1, 2, 0) }
        expect(.unknownModel, "model #8") {
            try finish { rig.cache.openSequence(id: SequenceID(5), model: ModelID(8), completion: $0) }
        }
        try rig.open(5)
        expect(.conflict, "1 sequences", "model #7") { try finish { rig.cache.removeModel(Rig.model, completion: $0) } }
        try rig.close(5)
        try finish { rig.cache.removeModel(Rig.model, completion: $0) }
        #expect(rig.cache.models.isEmpty)
    }

    @Test("a reader keeps its bytes while its sequence is truncated and closed, and new data takes the room")
    func readers() throws {
        let rig = try rig()
        let readers = try (0..<2).map { try rig.cache.context(sequence: SequenceID(1), layer: $0, length: 100) }
        try rig.truncate(1, 10)
        try rig.appendAll(1, at: 10, [UInt32](repeating: 6, count: 190))
        try rig.commit(1, 200)
        try rig.close(1)
        for round in 0..<20 {
            try rig.open(UInt64(10 + round))
            try rig.appendAll(UInt64(10 + round), at: 0, [UInt32](repeating: 9, count: 100))
            try rig.commit(UInt64(10 + round), 100)
        }
        #expect(try rig.cache.statistics().readers == 2)
        for (layer, reader) in readers.enumerated() {
            #expect(rig.matches(reader, Array(Self.tags[..<100]), layer: layer))
        }
    }
}
