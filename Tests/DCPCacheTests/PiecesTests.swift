// SPDX-License-Identifier: Apache-2.0

import DCPCache
import DCPCore
import DCPStore
import DCPTestKit
import Foundation
import Testing

@Suite("blocks in pieces")
struct PiecesTests {
    /// Blocks of one page, and a model whose blocks take 33 and whose rows take 3.
    private func store(assembled: Int = 256 << 20) throws -> MixedStore {
        try MixedStore(diskByteCountMax: 8 << 20, [(1, 1, 16), (1, 16, 64)], assembled: assembled)
    }

    /// A store of holes of one page, with a sequence of large blocks in them.
    private func storeInPieces(
        assembled: Int = 256 << 20
    ) throws -> (store: MixedStore, small: UInt64, large: UInt64) {
        let store = try store(assembled: assembled)
        let small = try store.fillWithHoles()
        let large = try store.open(1)
        // The first find runs behind what was ever used.
        while try store.piecedBlocks < 4 {
            try store.append(large, 16)
            try store.commit([large])
        }
        return (store, small, large)
    }

    @Test("below the low watermark every commit is taken, whatever the holes are; a restart finds every token")
    func taken() throws {
        let store = try store()
        let small = try store.fillWithHoles()
        #expect(store.cache.refusal == nil)
        let large = try store.open(1)
        var blocks = 0
        while store.cache.health.usedByteCount < store.lowByteCount {
            // Single tokens too: their rows take runs of three pages.
            for count in [1, 2, 13] {
                try store.append(large, count)
                try store.commit([large])
            }
            blocks += 1
        }
        let statistics = try store.cache.statistics()
        #expect(blocks > 10 && statistics.piecedBlocks > blocks / 2)
        let smallBlocks = try #require(store.sequences[small]).committed / 16
        #expect(statistics.sealedBlocks == smallBlocks + blocks, "a block in pieces is one block")
        #expect(try store.holdsAll())
        try store.reopen()
        #expect(try store.holdsAll())
        #expect(try store.cache.statistics().sealedBlocks == smallBlocks + blocks)
        #expect(try store.rig.verifyStopped().findings == [])
    }

    @Test("acknowledged commits survive SIGKILL")
    func killed() throws {
        let (store, _, large) = try storeInPieces()
        try store.append(large, 7)
        try store.commit([large])
        // What a kill leaves: the file as the kernel has it, and nothing of memory.
        let directory = TemporaryDirectory()
        let path = directory.path("store")
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
        for name in ["data.mdb", "dcp-store.created"] {
            try FileManager.default.copyItem(atPath: store.rig.storePath + "/" + name, toPath: path + "/" + name)
        }
        let copy = try ShardCache.open(
            directory: path, rank: store.rig.rank, cluster: store.rig.cluster, settings: store.rig.settings)
        defer { copy.close() }
        let reference = try #require(store.sequences[large])
        let context = try copy.context(sequence: SequenceID(large), layer: 0, length: Position(reference.committed))
        #expect(store.matches(context, reference.committedTags, model: 1, layer: 0))
        #expect(try copy.statistics().piecedBlocks == store.piecedBlocks)
    }

    @Test("when there is room for their runs, blocks are made whole, and who reads them then sees every token")
    func healing() throws {
        let (store, small, large) = try storeInPieces()
        let child = try store.fork(large, 40)
        let tags = try #require(store.sequences[large]).committedTags
        var reader: ContextReader? = try store.cache.context(
            sequence: SequenceID(large), layer: 0, length: Position(tags.count))
        try store.close(small)
        try store.rig.settle()
        #expect(store.matches(try #require(reader), tags, model: 1, layer: 0))
        reader = nil
        // Those whose pages the reader held back are tried again with the next that is freed.
        try store.close(store.open(0))
        while try store.piecedBlocks > 0 { try store.rig.settle() }
        let after = try store.cache.statistics()
        #expect(after.sealedBlocks == tags.count / 16)
        #expect(try store.holdsAll())
        // As much as blocks take that were never in pieces: nothing of them is left.
        let whole = try MixedStore(diskByteCountMax: 8 << 20, [(1, 1, 16), (1, 16, 64)])
        let other = try whole.open(1)
        try whole.append(other, tags.count)
        try whole.commit([other])
        #expect(after.storeUsedByteCount < (try whole.cache.statistics().storeUsedByteCount) + 64 * 4096)
        try store.reopen()
        #expect(try store.holdsAll() && store.piecedBlocks == 0)
        try store.close(large)
        #expect(try store.holdsAll(), "\(child) has them")
        try store.close(child)
        try store.rig.settle()
        #expect(try store.cache.statistics().sealedBlocks == 0)
        #expect(try store.rig.verifyStopped().findings == [])
    }

    @Test("forks share blocks in pieces; the last of their users takes them along, and a cut reads through one")
    func forks() throws {
        let (store, small, large) = try storeInPieces()
        let child = try store.fork(large, 56)
        try store.truncate(large, 72)
        #expect(try store.holdsAll())
        try store.append(large, 30)
        try store.commit([large])
        try store.reopen()
        #expect(try store.holdsAll())
        try store.close(large)
        #expect(try store.holdsAll())
        try store.close(child)
        try store.rig.settle()
        #expect(try store.piecedBlocks == 0)
        let blocks = try #require(store.sequences[small]).committed / 16
        #expect(try store.cache.statistics().sealedBlocks == blocks)
        #expect(try store.cache.statistics().memoryByteCount == 0)
        #expect(try store.rig.verifyStopped().findings == [])
    }

    @Test("a missing or a damaged piece is damage of its block, found at the first use and by verification")
    func damage() throws {
        for isMissing in [true, false] {
            let (store, _, large) = try storeInPieces()
            let length = try #require(store.sequences[large]).committed
            // Any block of it that is in pieces, but the first.
            var damaged: Int?
            try store.rig.change { transaction, table in
                var keys: [[UInt8]] = []
                try transaction.scan(table("blocks")) { key, _ in
                    if key.count == 24 { keys.append(Array(key)) }
                    return true
                }
                let key = try #require(keys.last { $0[23] == 5 })
                damaged = Int(key[19])
                if isMissing {
                    try transaction.delete(table("blocks"), key)
                } else {
                    var value = Array(try #require(try transaction.get(table("blocks"), key)))
                    value[100] ^= 4
                    try transaction.put(table("blocks"), key, value)
                }
            }
            let block = try #require(damaged)
            let verdict = try store.rig.verifyStopped()
            #expect(verdict.damage.map(\.block) == [block])
            try store.reopen()
            expect(.storeDamaged, "Block \(block) of layer 0") {
                _ = try store.cache.context(sequence: SequenceID(large), layer: 0, length: Position(length))
            }
            #expect(store.cache.state(of: SequenceID(large))?.intactLength == Position(block * 16))
            try store.truncate(large, block * 16)
            #expect(try store.holdsAll())
            try store.append(large, 16)
            try store.commit([large])
            try store.reopen()
            try store.rig.settle()
            #expect(try store.holdsAll())
            #expect(try store.rig.verifyStopped().findings == [])
        }
    }

    @Test(
        "rows that one transaction cannot free go later, by the next start at the latest, and a cut writes some of them again"
    )
    func rows() throws {
        var settings = ShardCache.Settings(mapByteCountMax: 1 << 30, durability: .never)
        settings.faults = StoreFaults(runPagesMax: { 1 })
        // A row takes 66 pages, so the 15 of an open block more than LMDB can list in one.
        let rig = try Rig(layers: 32, kvHeads: 16, dims: (64, 64), settings: settings)
        let tags = (0..<UInt32(40)).map { $0 &* 77 }
        try rig.open(1)
        for length in stride(from: 0, to: 15, by: 5) {
            try rig.appendAll(1, at: length, Array(tags[length..<length + 5]))
            try rig.commit(1, length + 5)
        }
        try rig.appendAll(1, at: 15, [tags[15]])
        let directory = TemporaryDirectory()
        let path = directory.path("store")
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
        let (sealed, cut) = (Pending(), Pending())
        let (cache, storePath) = (rig.cache, rig.storePath)
        cache.commit([(SequenceID(1), 16)]) { result in
            // On the writer's thread: nothing is deleted at this moment.
            #expect(cache.doomedByteCount > 0, "the commit deleted all rows")
            for name in ["data.mdb", "dcp-store.created"] {
                _ = try? FileManager.default.copyItem(atPath: storePath + "/" + name, toPath: path + "/" + name)
            }
            // Runs after the first of several deletions.
            cache.truncate(SequenceID(1), length: 14) { cut.finish($0) }
            sealed.finish(result)
        }
        try sealed.wait()
        try cut.wait()
        while cache.doomedByteCount > 0 { try rig.settle() }
        #expect(try rig.holds(1, Array(tags[..<14])))
        #expect(try Verdict(cache.verification()).findings == [])
        try rig.reopen()
        #expect(try rig.holds(1, Array(tags[..<14])))
        try rig.close(1)
        while rig.cache.doomedByteCount > 0 { try rig.settle() }
        #expect(try rig.verifyStopped().findings == [])

        let copy = try Rig(layers: 32, kvHeads: 16, dims: (64, 64), settings: settings, path: path)
        while copy.cache.doomedByteCount > 0 { try copy.settle() }
        #expect(try copy.holds(1, Array(tags[..<16])))
        #expect(try copy.cache.statistics().piecedBlocks == 32)
        #expect(try copy.verifyStopped().findings == [])
        copy.settings.faults = nil
        try copy.reopen()
        while try copy.cache.statistics().piecedBlocks > 0 { try copy.settle() }
        #expect(try copy.holds(1, Array(tags[..<16])))
        #expect(try copy.verifyStopped().findings == [])
    }

    @Test("blocks beyond the limit are put together for one step and released with it")
    func memory() throws {
        let (store, _, large) = try storeInPieces(assembled: 150_000)
        let reference = try #require(store.sequences[large])
        func read() throws -> ContextReader {
            try store.cache.context(sequence: SequenceID(large), layer: 0, length: Position(reference.committed))
        }
        var reader: ContextReader? = try read()
        #expect(store.matches(try #require(reader), reference.committedTags, model: 1, layer: 0))
        #expect(try store.cache.statistics().memoryByteCount > 300_000)
        expect(.overloaded, "in pieces", "retry") { _ = try read() }
        // A step over several sequences is not refused halfway.
        let child = try store.fork(large, reference.committed)
        reader = nil
        let wanted = [large, child].map { (sequence: SequenceID($0), positions: 0..<Position(reference.committed)) }
        for context in try store.cache.contexts(wanted, layer: 0) {
            #expect(store.matches(context, reference.committedTags, model: 1, layer: 0))
        }
        reader = nil
        #expect(try store.cache.statistics().memoryByteCount <= 300_000)
        #expect(store.matches(try read(), reference.committedTags, model: 1, layer: 0))
    }

    @Test("pages that a reader holds back are no room, and room again when it ends, with nothing done but the commit")
    func heldBack() throws {
        let store = try store()
        let ids = try [store.open(0), store.open(0)]
        while store.cache.refusal == nil {
            for id in ids { try store.append(id, 16) }
            try store.commit(ids)
        }
        var reader: ContextReader? = try store.cache.context(sequence: SequenceID(ids[0]), layer: 0, length: 16)
        try store.close(ids[1])
        try store.rig.settle()
        #expect(store.cache.refusal == nil)
        let large = try store.open(1)
        var isRefused = false
        for _ in 0..<20 where !isRefused {
            try store.append(large, 16)
            do {
                try store.commit([large])
            } catch let error as ServiceError {
                #expect(
                    error.code == .storeFull && error.isRetryable && error.message.contains("just deleted"), "\(error)")
                isRefused = true
            }
        }
        #expect(isRefused, "the reader held nothing back")
        // Below the low watermark, no sequence has to be closed.
        #expect(store.cache.refusal == nil)
        #expect(reader != nil)
        reader = nil
        try store.commit([large])
        #expect(try store.holdsAll())
    }
}
