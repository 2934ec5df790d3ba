// SPDX-License-Identifier: Apache-2.0

import DCPCache
import DCPCore
import DCPStore
import Foundation
import Testing

/// What sequences have in RAM while they are used, and give up.
@Suite("idle sequences leave RAM")
struct ResidenceTests {
    private static let tags = (0..<UInt32(200)).map { $0 &* 77 &+ 3 }

    private func rig(_ count: UInt64 = 1, limit: Int? = nil) throws -> Rig {
        var settings = ShardCache.Settings(mapByteCountMax: 1 << 30, durability: .never)
        settings.memoryByteCountMax = limit
        let rig = try Rig(settings: settings)
        for id in 1...count {
            try rig.open(id)
            try rig.appendAll(id, at: 0, Array(Self.tags[..<44]))
            try rig.commit(id, 44)
        }
        return rig
    }

    /// As a rank's timer does it twice in a quiet period.
    private func idle(_ rig: Rig) throws {
        rig.cache.releaseIdle()
        rig.cache.releaseIdle()
        try rig.settle()
    }

    private func expectEmpty(_ rig: Rig) throws {
        let statistics = try rig.cache.statistics()
        #expect(statistics.memoryByteCount == 0 && statistics.indexByteCount == 0)
        #expect(statistics.residentSequences == 0)
    }

    @Test("committed, unused data leave RAM, and are back at the next use")
    func release() throws {
        let rig = try rig(3)
        let before = try rig.cache.statistics()
        #expect(before.residentSequences == 3 && before.indexByteCount > 0)
        rig.cache.releaseIdle()
        try rig.settle()
        #expect(try rig.cache.statistics().residentSequences == 3, "used since the last time")
        try idle(rig)
        try expectEmpty(rig)
        #expect(try rig.state(2).layerLengths == [44, 44])
        #expect(try rig.holds(2, Array(Self.tags[..<44])))
        let one = try rig.cache.statistics()
        #expect(one.residentSequences == 1 && one.memoryByteCount == before.memoryByteCount / 3)
        #expect(one.indexByteCount == before.indexByteCount / 3)
        try rig.appendAll(2, at: 44, Array(Self.tags[44..<100]))
        try rig.commit(2, 100)
        try rig.fork(1, 4, 40)
        try rig.truncate(3, 20)
        for _ in 0..<2 {
            #expect(try rig.holds(1, Array(Self.tags[..<44])) && rig.holds(2, Array(Self.tags[..<100])))
            #expect(try rig.holds(3, Array(Self.tags[..<20])) && rig.holds(4, Array(Self.tags[..<40])))
            try idle(rig)
            try expectEmpty(rig)
        }
        for id in 1...4 as ClosedRange<UInt64> { try rig.close(id) }
        try rig.settle()
        try expectEmpty(rig)
        #expect(try rig.cache.statistics().sealedBlocks == 0)
        #expect(try rig.rows() == [])
    }

    @Test("uncommitted data stay in RAM, as do their sequence and the data that a reader uses")
    func inUse() throws {
        let rig = try rig(2)
        try rig.append(1, layer: 1, at: 44, [1, 2])
        var reader: ContextReader? = try rig.cache.context(sequence: SequenceID(2), layer: 0, length: 44)
        try idle(rig)
        #expect(try rig.cache.statistics().residentSequences == 1)
        #expect(try rig.state(1).layerLengths == [44, 46] && rig.state(2).layerLengths == [44, 44])
        #expect(rig.matches(try #require(reader), Array(Self.tags[..<44]), layer: 0))
        reader = nil
        #expect(try rig.holds(1, Array(Self.tags[..<44]) + [1, 2], layers: [1]))
        try rig.cache.rewind(sequence: SequenceID(1), layer: 1, length: 44)
        try idle(rig)
        try expectEmpty(rig)
    }

    @Test("a start brings nothing into RAM, and a rewind of what is not there finds nothing to drop")
    func start() throws {
        let rig = try rig(2)
        try rig.reopen()
        try expectEmpty(rig)
        try rig.cache.rewind(sequence: SequenceID(1), length: 44)
        try rig.cache.rewind(sequence: SequenceID(1), layer: 1, length: 44)
        try rig.cache.take(over: SequenceID(1), Claim(5))
        expect(.positionMismatch, "truncate") { try rig.cache.rewind(sequence: SequenceID(1), length: 43) }
        expect(.positionMismatch, "Layer 1", "45") {
            try rig.cache.rewind(sequence: SequenceID(1), layer: 1, length: 45)
        }
        try expectEmpty(rig)
    }

    @Test("beyond the limit those go that were used the longest ago, down to the limit")
    func limit() throws {
        let rig = try rig(4)
        // Of each sequence the same.
        let one = try rig.cache.statistics()
        let byteCount = (one.memoryByteCount + one.indexByteCount) / 4
        rig.settings.memoryByteCountMax = 2 * byteCount
        try rig.reopen()
        for id in [3, 1, 4, 3, 2] as [UInt64] {
            #expect(try rig.holds(id, Array(Self.tags[..<44])))
            try rig.settle()
            let statistics = try rig.cache.statistics()
            #expect(statistics.memoryByteCount + statistics.indexByteCount <= 2 * byteCount)
        }
        #expect(try rig.cache.statistics().residentSequences == 2)
        // The last two are at hand.
        #expect([1, 2, 3, 4].map { rig.cache.isAtHand(SequenceID($0)) } == [false, true, true, false])
    }

    @Test("what could not go before its commit goes with it, beyond the limit")
    func limitAtCommit() throws {
        let single = try self.rig(1)
        let one = try single.cache.statistics()
        let byteCount = one.memoryByteCount + one.indexByteCount
        var settings = ShardCache.Settings(mapByteCountMax: 1 << 30, durability: .never)
        settings.memoryByteCountMax = 4 * byteCount
        let rig = try Rig(settings: settings)
        let ids = Array(1...12 as ClosedRange<UInt64>)
        for id in ids {
            try rig.open(id)
            try rig.appendAll(id, at: 0, Array(Self.tags[..<12]))
        }
        try rig.settle()
        #expect(try rig.cache.statistics().residentSequences == 12)
        for id in ids { try rig.commit(id, 12) }
        try rig.settle()
        // Nothing else is done: the next use may be months away.
        let statistics = try rig.cache.statistics()
        #expect(statistics.memoryByteCount + statistics.indexByteCount <= 4 * byteCount + byteCount / 4)
        for id in ids { #expect(try rig.holds(id, Array(Self.tags[..<12]))) }
    }

    @Test("what a layer with a window has not read is checked at its first use, and nothing else again")
    func verifiedWindows() throws {
        let rig = try rig()
        func pieces(layer: Int, from start: Int) throws -> Int {
            var count = 0
            _ = try rig.cache.contexts([(SequenceID(1), Position(start)..<44)], layer: layer) { count += 1 }
            return count
        }
        try rig.reopen()
        #expect(try pieces(layer: 0, from: 0) == 1 && pieces(layer: 1, from: 20) == 1)
        for _ in 0..<2 {
            try idle(rig)
            #expect(try pieces(layer: 0, from: 0) == 0 && pieces(layer: 1, from: 20) == 0)
        }
        #expect(try pieces(layer: 1, from: 0) == 1)
        try idle(rig)
        #expect(try pieces(layer: 1, from: 0) == 0)
    }

    @Test("blocks found intact are not checked again, and damage is remembered")
    func verified() throws {
        let rig = try rig()
        func pieces() throws -> Int {
            var count = 0
            _ = try rig.cache.contexts([(SequenceID(1), 0..<44)], layer: 0) { count += 1 }
            return count
        }
        try rig.reopen()
        #expect(try pieces() == 1)
        #expect(try rig.holds(1, Array(Self.tags[..<44])))
        try idle(rig)
        #expect(try pieces() == 0)
        let row = StepRows.stored(tag: Self.tags[36], layer: 1, shape: rig.shape, cluster: rig.cluster)
        try rig.flip(Data(row), at: 9)
        try rig.reopen()
        for _ in 0..<2 {
            expect(.storeDamaged, "token 36 of sequence #1") { _ = try rig.holds(1, Array(Self.tags[..<44])) }
            #expect(try rig.state(1).intactLength == 36)
            #expect(try rig.holds(1, Array(Self.tags[..<36])))
            try idle(rig)
        }
    }
}
