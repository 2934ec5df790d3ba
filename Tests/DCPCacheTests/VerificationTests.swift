// SPDX-License-Identifier: Apache-2.0

import DCPCache
import DCPCore
import DCPStore
import DCPTestKit
import Foundation
import Testing

/// Damage of each kind, forced in a real store and found.
@Suite("verification")
struct VerificationTests {
    static let tags = (0..<UInt32(40)).map { $0 &+ 11 }

    /// Rank 1 of 2, interleave 4, blocks of 16: of 100 tokens it owns 48, in 3 sealed blocks in each of two layers; of
    /// sequence 2's 85 it owns 41, the last 9 as rows. Sequence 3 is a fork of 1 at 70: 34 tokens, 2 shared blocks, 2 rows.
    private func rig() throws -> Rig {
        let rig = try Rig(rank: 1, ranks: 2, interleave: 4)
        for (id, count) in [(1, 100), (2, 85)] as [(UInt64, Int)] {
            try rig.open(id)
            try rig.appendAll(id, at: 0, (0..<UInt32(count)).map { $0 &+ UInt32(id) * 1000 })
            try rig.commit(id, count)
        }
        try rig.fork(1, 3, 70)
        return rig
    }

    @Test("a store without damage has no findings, and all of it is counted, shared blocks once")
    func clean() throws {
        let rig = try rig()
        let online = try Verdict(rig.cache.verification())
        let before = try rig.bytesOnceClosed()
        let offline = try rig.verifyStopped()
        for verdict in [online, offline] {
            #expect(verdict.findings == [])
            #expect(verdict.progress.sequences == 3)
            #expect(verdict.progress.blocks == 2 * (3 + 2) && verdict.progress.rows == 9 + 2)
            // A row of f32, 2 heads, 8 + 10: 144 bytes a token and layer, in blocks and in rows.
            #expect(verdict.progress.byteCount == 2 * 144 * (5 * 16 + 11))
            #expect(verdict.progress.byteCount == verdict.progress.byteCountTotal)
        }
        #expect(try Data(contentsOf: URL(fileURLWithPath: rig.dataPath)) == before, "a verification changes nothing")
        try rig.reopen()
        #expect(try Verdict(rig.cache.verification(of: SequenceID(3))).progress.blocks == 4)
        expect(.unknownSequence, "sequence #9") { _ = try Verdict(rig.cache.verification(of: SequenceID(9))) }
    }

    @Test(
        "a flipped bit in a block's payload or header is found, in the fork that shares it too",
        arguments: [60, 900, 26])
    func block(offset: Int) throws {
        let rig = try rig()
        try rig.flip(Rig.header(writer: 1, layer: 1, index: 1), at: offset)
        let damage = try rig.verifyStopped().findings
        // Local token 16 of rank 1 is at position 4 x 2 x 4 + 4.
        #expect(damage.map(\.intactLength) == [36, 36] && damage.map(\.sequence) == [SequenceID(1), SequenceID(3)])
        for finding in damage {
            #expect(finding.kind == .block && finding.layer == 1 && finding.block == 1)
            #expect(finding.message.contains(offset < 48 ? "header" : "payload"), "\(finding.message)")
        }
        // What it says is good can be served, and the rest cannot.
        try rig.reopen()
        _ = try rig.cache.context(sequence: SequenceID(1), layer: 1, length: 36)
        expect(.storeDamaged) { _ = try rig.cache.context(sequence: SequenceID(1), layer: 1, length: 37) }
    }

    @Test("a block that is missing, of another size, or another block's is found where it should be")
    func wrongBlock() throws {
        let rig = try rig()
        try rig.change { transaction, table in
            let good = try #require(
                try transaction.get(table("blocks"), Rig.block(writer: 2, layer: 0, index: 0)))
            let copy = Array(good)
            try transaction.put(table("blocks"), Rig.block(writer: 2, layer: 0, index: 1), copy)
            try transaction.put(table("blocks"), Rig.block(writer: 2, layer: 1, index: 0), copy + [0])
            try transaction.delete(table("blocks"), Rig.block(writer: 1, layer: 0, index: 2))
        }
        let findings = try rig.verifyStopped().findings
        #expect(findings.map(\.kind) == [.missingBlock, .block, .block])
        #expect(findings.map(\.sequence) == [SequenceID(1), SequenceID(2), SequenceID(2)])
        #expect(findings.map(\.layer) == [0, 0, 1] && findings.map(\.block) == [2, 1, 0])
        #expect(findings.map(\.intactLength) == [68, 36, 4])
        #expect(findings[1].message.contains("another block: layer 0, index 0 of writer 2"))
    }

    @Test("a row that is missing or whose bit is flipped is found by its position")
    func rows() throws {
        let rig = try rig()
        // Sequence 2's open block begins at local token 32.
        let stored = StepRows.stored(tag: 2000 + 78, layer: 1, shape: rig.shape, cluster: rig.cluster)
        try rig.flip(Data(stored), at: 5)
        try rig.change { transaction, table in
            let isThere = try transaction.delete(table("tail"), Rig.key(UInt64(2), UInt64(33)))
            #expect(isThere)
        }
        let findings = try rig.verifyStopped().findings
        #expect(findings.map(\.kind) == [.missingRow, .row])
        #expect(findings.map(\.intactLength) == [69, 78] && findings.map(\.block) == [2, 2])
        #expect(findings.allSatisfy { $0.sequence == SequenceID(2) && $0.layer == nil })
    }

    @Test("a damaged record is found; its blocks may have no owner, and those that a fork shares are the fork's")
    func record() throws {
        let rig = try rig()
        try rig.change { transaction, table in
            var record = Array(try #require(try transaction.get(table("sequences"), Rig.key(UInt64(1)))))
            record[24] ^= 1
            try transaction.put(table("sequences"), Rig.key(UInt64(1)), record)
        }
        let verdict = try rig.verifyStopped()
        #expect(verdict.damage.map(\.kind) == [.record])
        #expect(verdict.damage[0].sequence == SequenceID(1) && verdict.damage[0].intactLength == 0)
        #expect(verdict.leftovers.map(\.kind) == [.unreferencedBlocks])
        #expect(verdict.leftovers[0].message.contains("2 blocks of writer 1"), "\(verdict.leftovers[0].message)")
        #expect(verdict.leftovers[0].message.contains("damaged record"))
        #expect(verdict.progress.blocks == 8)
    }

    @Test("a flipped bit in the superblock, a counter or a model's record is found")
    func meta() throws {
        let rig = try rig()
        try rig.change { transaction, table in
            for (name, key) in [("meta", Array("epoch".utf8)), ("models", Rig.key(Rig.model.value))] {
                var value = Array(try #require(try transaction.get(table(name), key)))
                value[1] ^= 1
                try transaction.put(table(name), key, value)
            }
        }
        let findings = try rig.verifyStopped().damage
        // Without its model a sequence's record cannot be checked.
        #expect(findings.map(\.kind) == [.superblock, .model, .record, .record, .record])
        #expect(findings[0].message.contains("`epoch`") && findings[1].message.contains("model #7"))
        try rig.change { transaction, table in
            var value = Array(try #require(try transaction.get(table("meta"), Array("superblock".utf8))))
            value[30] ^= 1
            try transaction.put(table("meta"), Array("superblock".utf8), value)
        }
        expect(.storeDamaged, "superblock", rig.storePath) { _ = try rig.verifyStopped() }
    }

    @Test("a writer counter that would give a number again is found")
    func writerCounter() throws {
        let rig = try rig()
        try rig.change { transaction, table in
            let other = try Rig()
            other.cache.close()
            // A young store's counter, good in itself.
            let young = try Data(contentsOf: URL(fileURLWithPath: other.dataPath))
            let name = try #require(young.range(of: Data("writer".utf8), options: .backwards))
            let value = Array(young[name.upperBound..<name.upperBound + 12])
            try transaction.put(table("meta"), Array("writer".utf8), value)
        }
        let findings = try rig.verifyStopped().findings
        #expect(findings.map(\.kind) == [.superblock, .superblock, .superblock])
        #expect(findings[0].message.contains("is 1, but sequence #1 uses writer 1"), "\(findings[0].message)")
    }

    @Test("blocks and rows that no sequence refers to are leftovers, not damage")
    func leftovers() throws {
        let rig = try rig()
        try rig.change { transaction, table in
            let block = Array(
                try #require(try transaction.get(table("blocks"), Rig.block(writer: 1, layer: 0, index: 0))))
            for layer in [0, 1] as [UInt32] {
                try transaction.put(table("blocks"), Rig.block(writer: 1, layer: layer, index: 3), block)
            }
            try transaction.put(table("blocks"), Rig.block(writer: 900, layer: 0, index: 0), block)
            for (writer, index) in [(2, 31), (2, 41), (2, 500), (77, 0)] as [(UInt64, UInt64)] {
                try transaction.put(table("tail"), Rig.key(writer, index), [1, 2, 3])
            }
        }
        let verdict = try rig.verifyStopped()
        #expect(verdict.damage == [])
        #expect(
            verdict.leftovers.map(\.kind) == [.unreferencedBlocks, .unreferencedBlocks, .strayRows, .strayRows])
        #expect(verdict.leftovers[0].message.hasPrefix("2 blocks of writer 1 "))
        #expect(verdict.leftovers[1].message.hasPrefix("1 blocks of writer 900 "))
        #expect(verdict.leftovers[2].message.contains("3 rows of writer 2 "), "\(verdict.leftovers[2].message)")
        #expect(verdict.leftovers[2].message.contains("31, 41, 500"))
        #expect(verdict.leftovers[3].message.contains("1 rows of writer 77 "), "\(verdict.leftovers[3].message)")
        // A start deletes them.
        try rig.reopen()
        try rig.settle()
        #expect(try rig.verifyStopped().leftovers == [])
    }

    @Test("keys of a wrong size are damage of their table")
    func keys() throws {
        let rig = try rig()
        try rig.change { transaction, table in
            try transaction.put(table("blocks"), [1, 2, 3], [0])
            try transaction.put(table("tail"), [9], [0])
            try transaction.put(table("sequences"), [0], [0])
        }
        let findings = try rig.verifyStopped().findings
        #expect(findings.map(\.kind) == [.table, .table, .table])
        for (finding, table) in zip(findings, ["sequences", "blocks", "tail"]) {
            #expect(finding.message.contains("`\(table)`") && finding.message.contains("1 keys"))
        }
    }

    @Test("a truncated file, a store in use, and what is no store are refused before anything is read")
    func refusals() throws {
        let rig = try rig()
        expect(.storeRefused, "in use", "dcpctl verify") {
            _ = try StoreVerification.open(directory: rig.storePath)
        }
        rig.cache.close()
        let held = try StoreVerification.open(directory: rig.storePath)
        expect(.storeRefused, "in use") { try rig.reopen() }
        held.close()
        try rig.editStopped { $0.removeLast(4096) }
        expect(.storeDamaged, "truncated") { _ = try StoreVerification.open(directory: rig.storePath) }
        try rig.editStopped { $0 = Data() }
        expect(.storeDamaged, "missing or empty") { _ = try StoreVerification.open(directory: rig.storePath) }
        expect(.storeRefused, "holds no store") {
            _ = try StoreVerification.open(directory: rig.directory.path("nowhere"))
        }
    }
}

extension Rig {
    /// The data file when no process has it open.
    fileprivate func bytesOnceClosed() throws -> Data {
        cache.close()
        return try Data(contentsOf: URL(fileURLWithPath: dataPath))
    }
}
