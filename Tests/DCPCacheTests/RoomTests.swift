// SPDX-License-Identifier: Apache-2.0

import DCPCache
import DCPCore
import DCPStore
import DCPTestKit
import Foundation
import Synchronization
import Testing

@Suite("room in the store")
struct RoomTests {
    private static let tags = (0..<UInt32(8000)).map { $0 }

    private func rig(limit: Int = 8 << 20, faults: StoreFaults? = nil) throws -> Rig {
        var settings = ShardCache.Settings(
            mapByteCountMax: ShardCache.Settings.mapByteCountMax(diskByteCountMax: limit), durability: .never)
        settings.faults = faults
        let rig = try Rig(layers: 1, kvHeads: 4, dims: (64, 64), settings: settings)
        try rig.open(1)
        try rig.open(2)
        return rig
    }

    private func fill(_ rig: Rig, _ id: UInt64 = 1) throws -> Int {
        var length = 0
        while rig.cache.refusal == nil {
            try rig.appendAll(id, at: length, Array(Self.tags[length..<length + 32]))
            try rig.commit(id, length + 32)
            length += 32
        }
        return length
    }

    @Test("above the high watermark new tokens are refused with the rank, what it holds, the limit and the remedy")
    func refusal() throws {
        let rig = try rig()
        _ = try fill(rig)
        let refusal = try #require(rig.cache.refusal)
        let health = rig.cache.health
        #expect(refusal.code == .storeFull && refusal.isRetryable && refusal.rank == RankIndex(0))
        let words = [
            "rank 0", "\(health.usedByteCount) bytes", "95 % of \(health.capacityByteCount)", "less than 90 %",
            "close or truncate sequences", "--disk-limit",
        ]
        for word in words { #expect(refusal.message.contains(word), "no \(word) in \(refusal)") }
        #expect(rig.cache.evictionByteCount > 0)
        // The room above it is for tokens that were let in before.
        try rig.appendAll(2, at: 0, Array(Self.tags[..<16]))
        try rig.commit(2, 16)
        try rig.close(1)
        try rig.settle()
        #expect(rig.cache.refusal == nil && rig.cache.evictionByteCount == 0)
        try rig.reopen()
        #expect(rig.cache.refusal == nil)
    }

    @Test("a store that is full is full after a restart")
    func restart() throws {
        let rig = try rig()
        let length = try fill(rig)
        try rig.reopen()
        #expect(rig.cache.refusal?.code == .storeFull)
        try rig.truncate(1, length / 2)
        try rig.settle()
        #expect(rig.cache.refusal == nil)
        #expect(try rig.holds(1, Array(Self.tags[..<(length / 2)])))
    }

    @Test("the file stays within the limit while sequences come and go")
    func limit() throws {
        let rig = try rig()
        for round in 0..<4 {
            let length = try fill(rig)
            #expect(length > 100, "round \(round)")
            try rig.close(1)
            try rig.settle()
            try rig.open(1)
            let size = try FileManager.default.attributesOfItem(atPath: rig.dataPath)[.size] as? Int
            #expect(try #require(size) <= 8 << 20)
        }
    }

    @Test("tokens that wait to be committed count before more are taken")
    func crowding() throws {
        let rig = try rig()
        #expect(rig.cache.crowding == nil)
        var length = 0
        while rig.cache.crowding == nil {
            try rig.appendAll(1, at: length, Array(Self.tags[length..<length + 32]))
            length += 32
        }
        let refusal = try #require(rig.cache.crowding)
        #expect(refusal.code == .storeFull && refusal.message.contains("waiting to be committed"))
        #expect(rig.cache.refusal == nil)
        // What was let in can be committed.
        try rig.commit(1, length)
        #expect(rig.cache.crowding == nil && rig.cache.refusal != nil)
    }

    /// Another transaction tells, or the second that a rank counts.
    @Test("what a reader kept from being deleted is deleted when the reader has ended", arguments: [true, false])
    func refusedSweep(isTransaction: Bool) throws {
        final class Runs: Sendable { let pagesMax = Atomic(Int.max) }
        let runs = Runs()
        let faults = StoreFaults(runPagesMax: { runs.pagesMax.load(ordering: .sequentiallyConsistent) })
        let rig = try rig(limit: 16 << 20, faults: faults)
        let length = try fill(rig)
        func hold() throws -> ContextReader {
            try rig.cache.context(sequence: SequenceID(1), layer: 0, length: Position(length))
        }
        var epoch = UInt64(0)
        func writeEpoch() throws {
            epoch += 1
            try finish { rig.cache.persist(epoch: Epoch(epoch), completion: $0) }
            try rig.settle()
        }
        var reader: ContextReader?
        // Each epoch takes some pages, which the reader keeps from being used again: how many until there is none?
        func epochsUntilFull() throws -> Int {
            reader = try hold()
            var epochs = 0
            expect(.storeFull) {
                while epochs < 10_000 {
                    try writeEpoch()
                    epochs += 1
                }
            }
            reader = nil
            for _ in 0..<2 { try writeEpoch() }
            return epochs
        }
        // The first ones also take what the file has never used, so only the next ones are repeated.
        _ = try epochsUntilFull()
        let epochs = try epochsUntilFull()
        // As many once more, but for what the close takes. It deletes some hundred pages in each transaction.
        reader = try hold()
        for _ in 0..<epochs - 4 { try writeEpoch() }
        runs.pagesMax.store(1, ordering: .sequentiallyConsistent)
        try rig.close(1)
        for _ in 0..<20 { try rig.settle() }
        #expect(rig.cache.doomedByteCount > 1 << 20, "the reader keeps what the sweeps need")
        #expect(reader?.tokens == length)
        reader = nil
        if isTransaction { try writeEpoch() } else { rig.cache.retryDeletions() }
        for _ in 0..<20 where rig.cache.doomedByteCount > 0 { try rig.settle() }
        #expect(rig.cache.doomedByteCount == 0)
        #expect(try rig.cache.statistics().sealedBlocks == 0 && rig.cache.refusal == nil)
    }

    @Test("a large sequence is deleted in several transactions, between which others commit; a restart continues")
    func batches() throws {
        // Blocks of one page: 8192 of them are the most that one transaction frees.
        let rig = try Rig(layers: 16, kvHeads: 1, dims: (8, 8))
        try rig.open(1)
        try rig.open(2)
        let tokens = 16 * 1100
        for start in stride(from: 0, to: tokens, by: 1600) {
            try rig.appendAll(1, at: start, (start..<start + 1600).map { UInt32($0) })
            try rig.commit(1, start + 1600)
        }
        try rig.appendAll(2, at: 0, [1, 2, 3])
        let before = try rig.cache.statistics().transactionsCommitted
        let (closed, committed) = (Pending(), Pending())
        let cache = rig.cache
        cache.close(SequenceID(1)) { closed.finish($0) }
        cache.commit([(SequenceID(2), 3)]) { result in
            // On the writer's thread: no deletion runs at this moment.
            #expect(cache.doomedByteCount > 0, "the commit waited for all deletions")
            committed.finish(result)
        }
        try closed.wait()
        try committed.wait()
        rig.cache.close()
        try rig.reopen()
        try rig.settle()
        #expect(rig.cache.doomedByteCount == 0)
        let after = try rig.cache.statistics()
        #expect(after.sealedBlocks == 0 && after.sequences == 1)
        #expect(before > 0)
    }
}
