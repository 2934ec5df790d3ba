// SPDX-License-Identifier: Apache-2.0

import DCPCache
import DCPCore
import DCPTestKit
import Foundation
import Testing

/// Verification of a store that serves.
@Suite("verification while serving")
struct LiveVerificationTests {
    private static let tags = (0..<UInt32(40)).map { $0 &+ 11 }

    @Test("blocks found damaged are not served any longer, and a cut repairs them, in a fork as well")
    func distrust() throws {
        let rig = try Rig()
        try rig.open(1)
        try rig.appendAll(1, at: 0, Self.tags)
        try rig.commit(1, 40)
        try rig.fork(1, 2, 35)
        // Checked by its first reader, and damaged after that: only a verification can find it.
        #expect(try rig.holds(1, Self.tags))
        #expect(try rig.holds(2, Array(Self.tags[..<35])))
        try rig.flipLive(Rig.header(writer: 1, layer: 1, index: 1), at: 99)
        #expect(try rig.state(1).intactLength == 40)
        let verdict = try Verdict(rig.cache.verification(of: SequenceID(2)))
        #expect(verdict.findings.map(\.sequence) == [SequenceID(2)] && verdict.findings[0].intactLength == 16)
        try rig.settle()
        #expect(try rig.state(2).intactLength == 16)
        #expect(try rig.state(1).intactLength == 40)
        #expect(try Verdict(rig.cache.verification()).damage.count == 2)
        try rig.settle()
        for id in [UInt64(1), 2] {
            #expect(try rig.state(id).intactLength == 16)
            expect(.storeDamaged, "Block 1 of layer 1", "truncate the sequence to 16") {
                _ = try rig.holds(id, Array(Self.tags[..<17]))
            }
            try rig.truncate(id, 16)
            try rig.appendAll(id, at: 16, Array(Self.tags[16...]))
            try rig.commit(id, 40)
            #expect(try rig.holds(id, Self.tags))
        }
        try rig.settle()
        #expect(try Verdict(rig.cache.verification()).findings == [])
    }

    @Test("tokens appended before damage was found can be rolled back, but not committed")
    func rewind() throws {
        let rig = try Rig()
        try rig.open(1)
        try rig.appendAll(1, at: 0, Self.tags)
        try rig.commit(1, 40)
        try rig.appendAll(1, at: 40, [1, 2, 3])
        try rig.flipLive(Rig.header(writer: 1, layer: 1, index: 1), at: 99)
        #expect(try Verdict(rig.cache.verification()).damage.count == 1)
        try rig.settle()
        expect(.storeDamaged, "Block 1 of layer 1") { try rig.commit(1, 43) }
        for layer in 0..<2 { try rig.cache.rewind(sequence: SequenceID(1), layer: layer, length: 41) }
        #expect(try rig.state(1).layerLengths == [41, 41])
        try rig.truncate(1, 16)
        #expect(try rig.state(1).layerLengths == [16, 16])
        #expect(try rig.cache.statistics().uncommittedByteCount == 0)
    }

    @Test("a record that goes bad while its sequence is in memory is written again")
    func record() throws {
        let rig = try Rig()
        try rig.open(1)
        try rig.appendAll(1, at: 0, Self.tags)
        try rig.commit(1, 40)
        var record = Data()
        for field in [7, 0] as [UInt32] { withUnsafeBytes(of: field.littleEndian) { record.append(contentsOf: $0) } }
        for field in [0, 0, 40] as [UInt64] {
            withUnsafeBytes(of: field.littleEndian) { record.append(contentsOf: $0) }
        }
        try rig.flipLive(record, at: 24)
        let damage = try Verdict(rig.cache.verification()).damage
        #expect(damage.map(\.kind) == [.record] && damage[0].intactLength == 40)
        #expect(damage[0].message.contains("rewritten from memory"))
        try rig.settle()
        #expect(try Verdict(rig.cache.verification()).findings == [])
        try rig.reopen()
        #expect(try rig.holds(1, Self.tags))
    }

    @Test("damage in tokens cut off before the report does not affect their successors")
    func outdated() throws {
        let rig = try Rig()
        try rig.open(1)
        try rig.appendAll(1, at: 0, Self.tags)
        try rig.commit(1, 40)
        try rig.flipLive(Rig.header(writer: 1, layer: 0, index: 1), at: 77)
        let verification = rig.cache.verification(batchByteCount: 1)
        // The finding comes with the batch that reads the block; the sequence is cut and goes on before the last batch.
        var damage: [StoreFinding] = []
        while damage.isEmpty { damage = try verification.advance().findings }
        try rig.truncate(1, 16)
        try rig.appendAll(1, at: 16, Array(Self.tags[16...]))
        try rig.commit(1, 40)
        #expect(try Verdict(verification).findings == [])
        try rig.settle()
        #expect(try rig.state(1).intactLength == 40)
        #expect(try rig.holds(1, Self.tags))
    }

    @Test("commits, forks, truncations and closes between batches are never damage", arguments: [1, 4096, 1 << 20])
    func changing(batchByteCount: Int) throws {
        var generator = SeededGenerator("changing \(batchByteCount)")
        let rig = try Rig(rank: 1, ranks: 2, interleave: 4)
        var lengths: [UInt64: Int] = [:]
        var next: UInt64 = 1
        func change() throws {
            switch Int.random(in: 0..<6, using: &generator) {
            case 0 where lengths.count < 8:
                try rig.open(next)
                lengths[next] = 0
                next += 1
            case 1:
                guard let (id, length) = lengths.randomElement(using: &generator), lengths.count < 8 else { return }
                let cut = Int.random(in: 0...length, using: &generator)
                try rig.fork(id, next, cut)
                lengths[next] = cut
                next += 1
            case 2:
                guard let (id, length) = lengths.randomElement(using: &generator) else { return }
                let cut = Int.random(in: 0...length, using: &generator)
                try rig.truncate(id, cut)
                lengths[id] = cut
            case 3 where lengths.count > 3:
                guard let id = lengths.keys.randomElement(using: &generator) else { return }
                try rig.close(id)
                lengths[id] = nil
            default:
                guard let (id, length) = lengths.randomElement(using: &generator) else { return }
                let count = Int.random(in: 1...90, using: &generator)
                try rig.appendAll(id, at: length, (0..<UInt32(count)).map { $0 })
                try rig.commit(id, length + count)
                lengths[id] = length + count
            }
        }
        for _ in 0..<20 { try change() }
        for round in 0..<6 {
            var batches = 0
            let verdict = try Verdict(rig.cache.verification(batchByteCount: batchByteCount)) {
                batches += 1
                if batches < 300 { try change() }
            }
            #expect(verdict.damage == [], "round \(round), seed \(SeededGenerator.seed)")
            for leftover in verdict.leftovers { #expect(leftover.kind == .unreferencedBlocks) }
        }
        try rig.settle()
        #expect(try Verdict(rig.cache.verification()).findings == [], "seed \(SeededGenerator.seed)")
        #expect(try rig.verifyStopped().findings == [], "seed \(SeededGenerator.seed)")
    }

    @Test("rows read back are those appended, for the owned tokens of any range, sealed or open")
    func rows() throws {
        let rig = try Rig(rank: 1, ranks: 2, interleave: 4, format: .bfloat16)
        let tags = (0..<UInt32(90)).map { $0 &* 3 }
        try rig.open(1)
        try rig.appendAll(1, at: 0, tags)
        try rig.commit(1, 85)
        for range in [0..<85, 0..<4, 4..<5, 30..<75, 64..<64, 84..<85] {
            for layer in 0..<2 {
                let rows = try rig.rows(of: SequenceID(1), layer: layer, Range<Position>(range))
                let owned = range.filter { $0 / 4 % 2 == 1 }
                let stored = owned.map {
                    StepRows.stored(tag: tags[$0], layer: layer, shape: rig.shape, cluster: rig.cluster)
                }
                #expect(rows.stored.tokens == owned.count)
                let keys = stored.flatMap { $0.prefix(2 * 8 * 2) }
                #expect(rows.bytes == keys + stored.flatMap { $0.dropFirst(2 * 8 * 2) })
            }
        }
        expect(.positionMismatch, "85 committed") {
            _ = try rig.rows(of: SequenceID(1), layer: 0, 80..<86)
        }
        let before = try rig.rows(of: SequenceID(1), layer: 0, 0..<40).stored.generation
        try rig.appendAll(1, at: 90, [5])
        #expect(try rig.rows(of: SequenceID(1), layer: 0, 0..<40).stored.generation == before)
        try rig.truncate(1, 84)
        #expect(try rig.rows(of: SequenceID(1), layer: 0, 0..<40).stored.generation != before)
    }
}

extension Rig {
    /// Flips a bit in the file of the store that is open: the map shows it, as it would show what a disk lost.
    fileprivate func flipLive(_ bytes: Data, at offset: Int) throws {
        let data = try Data(contentsOf: URL(fileURLWithPath: dataPath))
        let file = try FileHandle(forUpdating: URL(fileURLWithPath: dataPath))
        var start = 0
        // Freed pages still hold what a leaf held before.
        while let range = data.range(of: bytes, in: start..<data.count) {
            try file.seek(toOffset: UInt64(range.lowerBound + offset))
            try file.write(contentsOf: [data[range.lowerBound + offset] ^ 0x10])
            start = range.upperBound
        }
        try #require(start > 0, "the bytes to damage were not found")
        try file.close()
    }
}
