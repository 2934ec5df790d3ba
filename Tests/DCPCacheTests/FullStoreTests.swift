// SPDX-License-Identifier: Apache-2.0

import CLMDB
import DCPCache
import DCPCore
import DCPStore
import DCPTestKit
import Foundation
import Testing

@Suite("full store")
struct FullStoreTests {
    private static let tags = (0..<UInt32(4000)).map { $0 }

    /// A store that sequence 1 has filled.
    private func full() throws -> (rig: Rig, length: Int) {
        let settings = ShardCache.Settings(mapByteCountMax: 4 << 20, durability: .never)
        let rig = try Rig(layers: 1, kvHeads: 4, dims: (64, 64), settings: settings)
        try rig.open(1)
        try rig.open(2)
        for length in stride(from: 0, to: 4000, by: 40) {
            try rig.appendAll(1, at: length, Array(Self.tags[length..<length + 40]))
            do {
                try rig.commit(1, length + 40)
            } catch let error as ServiceError {
                #expect(error.code == .storeFull)
                return (rig, try fillGaps(rig, from: length))
            }
        }
        throw ServiceError(.internal, "The store never filled up.")
    }

    /// Takes what is too little for a step of 40 tokens: one token at a time, then the smallest records.
    private func fillGaps(_ rig: Rig, from length: Int) throws -> Int {
        var length = length
        while (try? rig.commit(1, length + 1)) != nil { length += 1 }
        var id = UInt64(10)
        while (try? rig.open(id)) != nil { id += 1 }
        return length
    }

    @Test("an epoch is persisted on a full store, again and again, and is there after a restart")
    func epoch() throws {
        let (rig, length) = try full()
        for epoch in 1...UInt64(20) {
            try finish { rig.cache.persist(epoch: Epoch(epoch), completion: $0) }
            expect(.storeFull) { try rig.commit(1, length + 1) }
        }
        #expect(rig.cache.highestEpoch == Epoch(20))
        try rig.reopen()
        #expect(rig.cache.highestEpoch == Epoch(20))
        #expect(try rig.holds(1, Array(Self.tags[..<length])))
    }

    @Test(
        "a store whose limit is half of what it holds records epochs, and everything in it can be closed",
        arguments: [false, true])
    func lowerLimit(isCompact: Bool) throws {
        let (rig, length) = try full()
        if isCompact { try compact(rig) }
        rig.settings.mapByteCountMax = 2 << 20
        try rig.reopen()
        #expect(rig.cache.refusal?.code == .storeFull && rig.cache.evictionByteCount > 1 << 20)
        // What is missing of the reserve, above the file.
        let byteCount = try fileByteCount(rig)
        #expect(rig.cache.excessByteCount > 1 << 20)
        for epoch in 1...UInt64(20) { try finish { rig.cache.persist(epoch: Epoch(epoch), completion: $0) } }
        #expect(try rig.holds(1, Array(Self.tags[..<length])))
        try rig.appendAll(2, at: 0, Array(Self.tags[..<16]))
        expect(.storeFull, "\(2 << 20) bytes") { try rig.commit(2, 16) }
        for sequence in rig.cache.sequences { try rig.close(sequence.id.value) }
        try rig.settle()
        #expect(rig.cache.doomedByteCount == 0 && rig.cache.refusal == nil)
        #expect(try fileByteCount(rig) <= byteCount + 1 << 20)
        try rig.open(5000)
        try rig.appendAll(5000, at: 0, Array(Self.tags[..<16]))
        try rig.commit(5000, 16)
        try rig.reopen()
        #expect(try rig.holds(5000, Array(Self.tags[..<16])))
    }

    private func fileByteCount(_ rig: Rig) throws -> Int {
        try #require(FileManager.default.attributesOfItem(atPath: rig.dataPath)[.size] as? Int)
    }

    /// As `mdb_copy -c` does it: no free page is left.
    private func compact(_ rig: Rig) throws {
        rig.cache.close()
        let directory = TemporaryDirectory()
        var environment: OpaquePointer?
        let codes = [
            mdb_env_create(&environment), mdb_env_open(environment, rig.storePath, UInt32(MDB_RDONLY), 0o600),
            mdb_env_copy2(environment, directory.path, UInt32(MDB_CP_COMPACT)),
        ]
        mdb_env_close(environment)
        #expect(codes == [0, 0, 0])
        try FileManager.default.removeItem(atPath: rig.dataPath)
        try FileManager.default.moveItem(atPath: directory.path("data.mdb"), toPath: rig.dataPath)
    }

    @Test("a close on a disk without a free byte succeeds, and makes room")
    func noByteLeft() throws {
        guard let disk = SmallDisk(byteCount: 32 << 20) else {
            try Test.cancel("A small disk can be mounted by root only.")
        }
        defer { withExtendedLifetime(disk) {} }
        let rig = try Rig(layers: 4, kvHeads: 4, dims: (64, 64), path: disk.path("store"))
        defer { rig.cache.close() }
        let ids = Array(1...20 as ClosedRange<UInt64>)
        for id in ids {
            try rig.open(id)
            try rig.appendAll(id, at: 0, Array(Self.tags[..<64]))
            try rig.commit(id, 64)
        }
        // Token by token, as decoding does it: each commit takes what the one but last has freed.
        for length in 65...67 {
            for id in ids {
                try rig.appendAll(id, at: length - 1, [Self.tags[length - 1]])
                try rig.commit(id, length)
            }
        }
        try disk.fill()
        for id in ids { try rig.close(id) }
        try rig.settle()
        let statistics = try rig.cache.statistics()
        #expect(rig.cache.doomedByteCount == 0 && statistics.sealedBlocks == 0)
        try rig.open(21)
        try rig.appendAll(21, at: 0, Array(Self.tags[..<64]))
        try rig.commit(21, 64)
        #expect(try rig.holds(21, Array(Self.tags[..<64])))
    }

    @Test("after a close on a full store the very next commit that fits succeeds")
    func close() throws {
        let (rig, length) = try full()
        // Nearly all that the other sequence had.
        let wanted = length * 4 / 5
        try rig.appendAll(2, at: 0, Array(Self.tags[..<wanted]))
        expect(.storeFull) { try rig.commit(2, wanted) }
        try rig.close(1)
        try rig.commit(2, wanted)
        try rig.reopen()
        #expect(try rig.holds(2, Array(Self.tags[..<wanted])))
    }

    @Test("after a truncation on a full store the very next commit that fits succeeds")
    func truncate() throws {
        let (rig, length) = try full()
        let wanted = length * 2 / 5
        try rig.appendAll(2, at: 0, Array(Self.tags[..<wanted]))
        expect(.storeFull) { try rig.commit(2, wanted) }
        try rig.truncate(1, length / 2)
        try rig.commit(2, wanted)
        try rig.reopen()
        #expect(try rig.holds(2, Array(Self.tags[..<wanted])))
        #expect(try rig.holds(1, Array(Self.tags[..<(length / 2)])))
    }

    @Test("what a join waits for finds room on a full store: a model, a sequence, a fork; and a close after them")
    func owed() throws {
        let (rig, length) = try full()
        // In the middle of a sealed block, whose rows the fork copies.
        let cut = length / 2 / 16 * 16 + 5
        let (opened, forked) = (SequenceID(1_000_000), SequenceID(1_000_001))
        expect(.storeFull) { try rig.open(opened.value) }
        expect(.storeFull) { try rig.fork(1, forked.value, cut) }
        try finish {
            rig.cache.putModel(id: ModelID(8), name: "other", description: rig.shape, isOwed: true, completion: $0)
        }
        try finish { rig.cache.openSequence(id: opened, model: ModelID(8), isOwed: true, completion: $0) }
        try finish {
            rig.cache.fork(
                parent: SequenceID(1), child: forked, length: Position(cut), isOwed: true, completion: $0)
        }
        expect(.storeFull) { try rig.commit(1, length + 1) }
        try rig.close(1)
        try rig.reopen()
        #expect(rig.cache.state(of: opened)?.model == ModelID(8))
        #expect(try rig.holds(forked.value, Array(Self.tags[..<cut])))
    }

    @Test("blocks that found no room beside a reader are spilled when the reader has ended, and nothing else changes")
    func reader() throws {
        var settings = ShardCache.Settings(mapByteCountMax: 4 << 20, durability: .never)
        settings.uncommittedByteCountMax = 512 << 10
        let rig = try Rig(layers: 1, kvHeads: 4, dims: (64, 64), settings: settings)
        try rig.open(1)
        try rig.open(2)
        // Three quarters of what the store may hold, in blocks of 32 KiB.
        let length = 1024
        for start in stride(from: 0, to: length, by: 64) {
            try rig.appendAll(1, at: start, Array(Self.tags[start..<start + 64]))
            try rig.commit(1, start + 64)
        }
        var reader: ContextReader? = try rig.cache.context(
            sequence: SequenceID(1), layer: 0, length: Position(length))
        try rig.close(1)
        try rig.settle()
        // The pages of the closed sequence are free, and those of the reader.
        var end = 0
        let refusal = #expect(throws: ServiceError.self) {
            while end < 2048 {
                try rig.appendWhenRoom(2, layer: 0, at: end, Array(Self.tags[end..<end + 16]))
                end += 16
            }
        }
        #expect(refusal?.code == .storeFull && refusal?.message.contains("a backup") == true)
        let refused = end
        expect(.storeFull) { try rig.appendWhenRoom(2, layer: 0, at: end, Array(Self.tags[end..<end + 16])) }
        #expect(reader?.tokens == length)
        reader = nil
        while end < refused + 256 {
            try rig.appendWhenRoom(2, layer: 0, at: end, Array(Self.tags[end..<end + 16]))
            end += 16
        }
        #expect(try rig.holds(2, Array(Self.tags[..<end])))
    }

    @Test("one step's contexts share a read transaction: more sequences than the store has readers")
    func manyContexts() throws {
        let rig = try Rig()
        let count = 1100
        // One sealed block, and an open one.
        func tags(_ id: Int) -> [UInt32] { [UInt32(id)] + (1...16) }
        for id in 1...UInt64(count) {
            try rig.open(id)
            try rig.appendAll(id, at: 0, tags(Int(id)))
        }
        try finish { rig.cache.commit((1...UInt64(count)).map { (SequenceID($0), Position(17)) }, completion: $0) }
        let wanted = (1...UInt64(count)).map { (sequence: SequenceID($0), positions: Range<Position>(0..<17)) }
        var contexts = try rig.cache.contexts(wanted, layer: 1)
        #expect(contexts.count == count)
        #expect(try rig.cache.statistics().readers == count, "each counts while it lives")
        for (index, context) in contexts.enumerated() {
            #expect(rig.matches(context, tags(index + 1), layer: 1))
        }
        // The transaction is one, whatever of its contexts is left; another step has room.
        contexts.removeLast(count - 1)
        #expect(try rig.cache.contexts(wanted, layer: 0).count == count)
        #expect(try rig.cache.statistics().readers == 1)
        contexts = []
        #expect(try rig.cache.statistics().readers == 0)
    }
}
