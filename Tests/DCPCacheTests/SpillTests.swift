// SPDX-License-Identifier: Apache-2.0

import DCPCache
import DCPCore
import DCPStore
import DCPTestKit
import Foundation
import Synchronization
import Testing

@Suite("spilling")
struct SpillTests {
    /// Of one layer.
    private static let row = 2 * 18 * 4
    private static let block = 16 * row
    private static let tags = (0..<UInt32(400)).map { $0 &* 31 &+ 7 }

    /// Of which half is spilled: four blocks.
    private func rig(
        rank: UInt16 = 0, ranks: Int = 1, layers: Int = 2, limit: Int = 8 * block, mapByteCountMax: Int = 1 << 30
    ) throws -> Rig {
        try Rig(
            rank: rank, ranks: ranks, interleave: 4, layers: layers,
            settings: ShardCache.Settings(
                mapByteCountMax: mapByteCountMax, durability: .never, uncommittedByteCountMax: limit))
    }

    /// A sequence whose tokens are all uncommitted, and mostly spilled.
    private func spilled(_ length: Int = 400, committed: Int = 0) throws -> Rig {
        let rig = try rig()
        try rig.open(1)
        for layer in 0..<2 { try rig.appendWhenRoom(1, layer: layer, at: 0, Array(Self.tags[..<max(committed, 1)])) }
        if committed > 0 { try rig.commit(1, committed) }
        for layer in 0..<2 {
            for start in stride(from: max(committed, 1), to: length, by: 37) {
                try rig.appendWhenRoom(1, layer: layer, at: start, Array(Self.tags[start..<min(start + 37, length)]))
            }
        }
        try rig.settleSpills()
        #expect(try rig.cache.statistics().spilledByteCount > 10 * Self.block)
        return rig
    }

    @Test("one pass through all layers, of many times what RAM may hold, and then the commit", arguments: [0, 1])
    func pass(_ rank: UInt16) throws {
        // Of half of it 16 blocks' worth are open blocks, which stay.
        let rig = try rig(rank: rank, ranks: 2, layers: 32, limit: 40 * Self.block)
        try rig.open(1)
        for layer in 0..<32 { try rig.appendWhenRoom(1, layer: layer, at: 0, Self.tags) }
        try rig.settleSpills()
        let statistics = try rig.cache.statistics()
        #expect(statistics.uncommittedByteCount <= 20 * Self.block)
        #expect(statistics.uncommittedByteCount + statistics.spilledByteCount == 200 * 32 * Self.row)
        #expect(statistics.memoryByteCount <= 20 * Self.block + 32 * Self.block)
        #expect(try rig.holds(1, Self.tags))
        try rig.commit(1, 400)
        #expect(try rig.cache.statistics().spilledByteCount == 0)
        #expect(try rig.cache.statistics().uncommittedByteCount == 0)
        #expect(try rig.cache.statistics().sealedBlocks == 32 * 12)
        for _ in 0..<2 {
            #expect(try rig.holds(1, Self.tags))
            #expect(try damage(rig) == [])
            try rig.reopen()
        }
    }

    @Test("a sequence that grows while a batch takes its blocks is in the batch once")
    func goesOn() throws {
        // Many layers, so that taking the blocks of all lasts as long as an append of some.
        let layers = 64
        // Its cache is made for all threads, and nothing else of it changes.
        nonisolated(unsafe) let rig = try self.rig(layers: layers, limit: 4 * layers * Self.block)
        try rig.open(1)
        let failures = Mutex<[any Error]>([])
        for round in 0..<30 {
            // Through spilled blocks, which are checked before they are opened again, and under another writer from there on.
            let kept = round == 0 ? 0 : 40
            try rig.cache.rewind(sequence: SequenceID(1), length: Position(kept))
            DispatchQueue.concurrentPerform(iterations: 2) { half in
                do {
                    for start in stride(from: kept, to: 160, by: 8) {
                        for layer in stride(from: half, to: layers, by: 2) {
                            try rig.appendWhenRoom(1, layer: layer, at: start, Array(Self.tags[start..<start + 8]))
                        }
                    }
                } catch {
                    failures.withLock { $0.append(error) }
                }
            }
            try rig.settleSpills()
            #expect(try rig.holds(1, Array(Self.tags[..<160])))
        }
        #expect(failures.withLock { $0.isEmpty }, "\(failures.withLock { $0 })")
        try rig.commit(1, 160)
        for _ in 0..<2 {
            #expect(try rig.holds(1, Array(Self.tags[..<160])))
            #expect(try damage(rig) == [])
            try rig.reopen()
        }
    }

    @Test("a single append that is larger than the limit is taken")
    func large() throws {
        let rig = try rig(limit: 2 * Self.block)
        try rig.open(1)
        for layer in 0..<2 { try rig.appendWhenRoom(1, layer: layer, at: 0, Self.tags) }
        try rig.commit(1, 400)
        #expect(try rig.holds(1, Self.tags))
    }

    @Test("a commit of a part of what was spilled counts that part; its rows are those of a spilled block")
    func part() throws {
        let rig = try spilled()
        for length in [10, 16, 50, 99, 100, 399, 400] {
            try rig.commit(1, length)
            #expect(try rig.holds(1, Self.tags))
            #expect(try damage(rig) == [])
            let statistics = try rig.cache.statistics()
            #expect(statistics.uncommittedByteCount + statistics.spilledByteCount == (400 - length) * 2 * Self.row)
            let copy = try copy(of: rig)
            #expect(try copy.state(1).committedLength == Position(length))
            #expect(try copy.holds(1, Array(Self.tags[..<length])))
        }
    }

    @Test("a crash leaves nothing of it, and what is sealed next is safe from the sweep", arguments: [0, 40])
    func crash(_ committed: Int) throws {
        let rig = try spilled(committed: committed)
        let copy = try copy(of: rig)
        // Before the sweep has run.
        let others = Self.tags.map { $0 &+ 9999 }
        try copy.appendAll(1, at: committed, Array(others[committed..<150]))
        try copy.commit(1, 150)
        try copy.settle()
        let expected = Array(Self.tags[..<committed]) + Array(others[committed..<150])
        for _ in 0..<2 {
            #expect(try copy.holds(1, expected))
            #expect(try damage(copy).isEmpty)
            #expect(try copy.cache.statistics().sealedBlocks == 2 * (150 / 16))
            try copy.reopen()
        }
    }

    @Test("a crash leaves no additional pages in use", arguments: [0, 40])
    func usage(_ committed: Int) throws {
        let rig = try spilled(committed: committed)
        let plain = try Rig(interleave: 4)
        try plain.open(1)
        if committed > 0 {
            try plain.appendAll(1, at: 0, Array(Self.tags[..<committed]))
            try plain.commit(1, committed)
        }
        let copy = try copy(of: rig)
        try copy.settle()
        #expect(try copy.cache.statistics().sealedBlocks == plain.cache.statistics().sealedBlocks)
        // Some pages of LMDB's list of free pages, and of trees that are less full.
        let used = try copy.cache.statistics().storeUsedByteCount
        #expect(try used <= plain.cache.statistics().storeUsedByteCount + 8 * 4096)
    }

    @Test(
        "a rewind deletes what was spilled, and what comes in its place is sealed",
        arguments: [0, 3, 16, 40, 53, 200, 399])
    func rewind(_ length: Int) throws {
        let rig = try spilled()
        var reader: ContextReader? = try rig.cache.context(sequence: SequenceID(1), layer: 0, length: 400)
        try rig.cache.rewind(sequence: SequenceID(1), length: Position(length))
        #expect(try rig.holds(1, Array(Self.tags[..<length])))
        let others = Self.tags.map { $0 &+ 5000 }
        for layer in 0..<2 { try rig.appendWhenRoom(1, layer: layer, at: length, Array(others[length...])) }
        try rig.settleSpills()
        #expect(try rig.matches(#require(reader), Self.tags, layer: 0), "who reads it keeps it")
        reader = nil
        let expected = Array(Self.tags[..<length]) + Array(others[length...])
        #expect(try rig.holds(1, expected))
        try rig.commit(1, 400)
        try rig.settle()
        for _ in 0..<2 {
            #expect(try rig.holds(1, expected))
            #expect(try damage(rig) == [])
            // What a transaction frees is bounded: the rest goes in later ones.
            for _ in 0..<100 where try rig.cache.statistics().sealedBlocks > 2 * 25 { try rig.settle() }
            #expect(try rig.cache.statistics().sealedBlocks == 2 * 25)
            #expect(try rig.cache.statistics().spilledByteCount == 0)
            try rig.reopen()
        }
    }

    @Test("a single layer is rolled back, as after a failed step, and written again")
    func oneLayer() throws {
        let rig = try spilled()
        let others = Self.tags.map { $0 &+ 5000 }
        for length in [399, 130, 100, 16, 0] {
            try rig.cache.rewind(sequence: SequenceID(1), layer: 0, length: Position(length))
            try rig.appendWhenRoom(1, layer: 0, at: length, Array(others[length...]))
            try rig.settleSpills()
            #expect(try rig.holds(1, Array(Self.tags[..<length]) + Array(others[length...]), layers: [0]))
            #expect(try rig.holds(1, Self.tags, layers: [1]))
        }
        try rig.commit(1, 400)
        try rig.reopen()
        #expect(try rig.holds(1, others, layers: [0]))
        #expect(try rig.holds(1, Self.tags, layers: [1]))
        #expect(try damage(rig) == [])
    }

    @Test("closing and truncating give the room back", arguments: [true, false])
    func room(_ closes: Bool) throws {
        let rig = try spilled(committed: 40)
        closes ? try rig.close(1) : try rig.truncate(1, 40)
        try rig.settle()
        let statistics = try rig.cache.statistics()
        #expect(statistics.spilledByteCount == 0 && statistics.uncommittedByteCount == 0)
        #expect(statistics.sealedBlocks == (closes ? 0 : 2 * 2))
        if !closes { #expect(try rig.holds(1, Array(Self.tags[..<40]))) }
    }

    @Test("a cut below what is committed, with more spilled behind it")
    func cut() throws {
        let rig = try spilled(committed: 100)
        try rig.truncate(1, 37)
        for layer in 0..<2 { try rig.appendWhenRoom(1, layer: layer, at: 37, Array(Self.tags[37...])) }
        try rig.commit(1, 400)
        try rig.reopen()
        #expect(try rig.holds(1, Self.tags))
        #expect(try damage(rig) == [])
    }

    @Test("a full store refuses to spill, with its reason, and takes it when there is room again")
    func full() throws {
        let rig = try rig(limit: 64 * Self.block, mapByteCountMax: 1 << 20)
        try rig.open(1)
        try rig.open(2)
        var length = 0
        while true {
            try rig.appendAll(2, at: length, Array(repeating: 5, count: 32))
            guard (try? rig.commit(2, length + 32)) != nil else { break }
            length += 32
        }
        try rig.cache.rewind(sequence: SequenceID(2), length: Position(length))
        var appended = 0
        expect(.storeFull) {
            while appended < 4000 {
                try rig.appendWhenRoom(1, layer: 0, at: appended, Array(repeating: 9, count: 40))
                appended += 40
            }
        }
        #expect(appended >= 64 * 16 - 40)
        try rig.close(2)
        try rig.settle()
        try rig.appendWhenRoom(1, layer: 0, at: appended, Array(repeating: 9, count: 40))
        #expect(try rig.holds(1, Array(repeating: 9, count: appended + 40), layers: [0]))
    }

    @Test("the holders are reported with their sizes, the largest first")
    func holdings() throws {
        let rig = try spilled()
        try rig.open(2)
        try rig.appendAll(2, at: 0, [1, 2])
        let holdings = rig.cache.uncommittedHoldings
        #expect(holdings.map(\.sequence) == [SequenceID(1), SequenceID(2)])
        #expect(holdings.map(\.byteCount) == [400 * 2 * Self.row, 2 * 2 * Self.row])
        #expect(try holdings.map(\.spilledByteCount) == [rig.cache.statistics().spilledByteCount, 0])
    }

    private func damage(_ rig: Rig) throws -> [StoreFinding] {
        let verification = rig.cache.verification()
        var findings: [StoreFinding] = []
        var batch: StoreVerification.Batch
        repeat {
            batch = try verification.advance()
            findings += batch.findings
        } while !batch.isDone
        // What is still to be deleted is no damage.
        return findings.filter(\.isDamage)
    }

    /// The store as a SIGKILL would leave it at this moment.
    private func copy(of rig: Rig) throws -> Rig {
        let copy = try Rig(rank: rig.rank.value, ranks: rig.cluster.ranks, interleave: 4, layers: rig.shape.layers)
        let data = try rig.quietData()
        try copy.edit { $0 = data }
        return copy
    }
}
