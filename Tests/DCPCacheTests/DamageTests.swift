// SPDX-License-Identifier: Apache-2.0

import DCPCache
import DCPCore
import Foundation
import Testing

@Suite("damage")
struct DamageTests {
    static let tags = (0..<UInt32(40)).map { $0 &+ 11 }

    /// 40 tokens on one rank: two sealed blocks in each of two layers, and 8 tail rows.
    private func rig() throws -> Rig {
        let rig = try Rig()
        try rig.open(1)
        try rig.appendAll(1, at: 0, Self.tags)
        try rig.commit(1, 40)
        return rig
    }

    /// Flips one bit wherever the bytes of a number occur: `count` places.
    private func flip(_ rig: Rig, _ bytes: Data, at offset: Int, count: Int? = nil) throws {
        try rig.edit { data in
            var start = 0
            var found = 0
            while let range = data.range(of: bytes, in: start..<data.count) {
                data[range.lowerBound + offset] ^= 0x10
                found += 1
                start = range.upperBound
            }
            #expect(found >= 1, "the bytes to damage were not found")
            if let count { #expect(found == count) }
        }
    }

    /// The header of a block of the first writer, as it is in the file.
    private func header(layer: UInt32, index: UInt32) -> Data {
        var bytes = Data("DCPB".utf8)
        withUnsafeBytes(of: UInt32(LayoutFingerprint.storeFormat).littleEndian) { bytes.append(contentsOf: $0) }
        withUnsafeBytes(of: UInt64(1).littleEndian) { bytes.append(contentsOf: $0) }
        withUnsafeBytes(of: layer.littleEndian) { bytes.append(contentsOf: $0) }
        withUnsafeBytes(of: index.littleEndian) { bytes.append(contentsOf: $0) }
        return bytes
    }

    @Test("a flipped bit in a block, or its header, is never served; what comes before is", arguments: [60, 1000, 26])
    func block(_ offset: Int) throws {
        let rig = try rig()
        try flip(rig, header(layer: 1, index: 1), at: offset, count: 1)
        #expect(try rig.state(1).committedLength == 40)
        #expect(try rig.holds(1, Self.tags, layers: [0]), "the other layer is intact")
        for _ in 0..<2 {
            expect(.storeDamaged, "Block 1 of layer 1 of sequence #1", "truncate the sequence to 16") {
                _ = try rig.cache.context(sequence: SequenceID(1), layer: 1, length: 17)
            }
        }
        #expect(try rig.holds(1, Array(Self.tags[..<16])))
        #expect(try rig.state(1).intactLength == 16)
        expect(.storeDamaged, "layer 1") { try rig.append(1, layer: 0, at: 40, [1]) }
        expect(.storeDamaged, "layer 1") { try rig.truncate(1, 20) }
        expect(.storeDamaged, "layer 1") { try rig.fork(1, 2, 20) }
        try rig.fork(1, 2, 16)
        try rig.truncate(1, 16)
        for id in [UInt64(1), 2] {
            try rig.appendAll(id, at: 16, Array(Self.tags[16...]))
            try rig.commit(id, 40)
            #expect(try rig.holds(id, Self.tags))
        }
    }

    @Test("a sequence whose blocks are damaged takes an annotation: its rows are neither needed nor changed")
    func annotation() throws {
        let rig = try rig()
        try flip(rig, header(layer: 1, index: 0), at: 500, count: 1)
        expect(.storeDamaged, "Block 0 of layer 1") {
            _ = try rig.cache.context(sequence: SequenceID(1), layer: 1, length: 17)
        }
        // Back in RAM, its rows are not read: they are behind the damage.
        rig.cache.releaseIdle()
        rig.cache.releaseIdle()
        try rig.settle()
        try rig.commit(1, 40, nil, annotation: [1, 2])
        #expect(try rig.state(1).intactLength == 0)
        for _ in 0..<2 {
            #expect(try rig.annotation(1) == [1, 2])
            #expect(try rig.state(1).committedLength == 40)
            try rig.reopen()
        }
        // A start forgets what has been found; layer 0 is whole.
        #expect(try rig.holds(1, Self.tags, layers: [0]))
    }

    @Test("a truncation and a fork through a damaged block find it themselves")
    func straddling() throws {
        let rig = try rig()
        try flip(rig, header(layer: 1, index: 1), at: 500, count: 1)
        expect(.storeDamaged, "Block 1 of layer 1") { try rig.fork(1, 2, 20) }
        try rig.reopen()
        expect(.storeDamaged, "Block 1 of layer 1") { try rig.truncate(1, 20) }
        #expect(try rig.state(1).committedLength == 40)
        try rig.truncate(1, 10)
        #expect(try rig.holds(1, Array(Self.tags[..<10])))
    }

    @Test("a flipped bit in a tail row is never served; the tokens before it are")
    func tail() throws {
        let rig = try rig()
        // Token 35 in layer 1, as the row has it; the sealed blocks hold other tokens, in another order.
        let row = StepRows.stored(tag: Self.tags[35], layer: 1, shape: rig.shape, cluster: rig.cluster)
        try flip(rig, Data(row), at: 9)
        expect(.storeDamaged, "token 35 of sequence #1", "truncate the sequence to 35") {
            _ = try rig.cache.context(sequence: SequenceID(1), layer: 0, length: 36)
        }
        #expect(try rig.holds(1, Array(Self.tags[..<35])))
        #expect(try rig.state(1).intactLength == 35)
        try rig.truncate(1, 35)
        try rig.appendAll(1, at: 35, Array(Self.tags[35...]))
        try rig.commit(1, 40)
        try rig.reopen()
        #expect(try rig.holds(1, Self.tags))
    }

    @Test("a damaged record takes its sequence out of service, closing it makes room for a new one")
    func record() throws {
        let rig = try rig()
        try rig.open(2)
        try rig.fork(1, 3, 32)
        // Sequence 1's record: model 7, no fork, no parent, forked at 0, committed 40.
        var record = Data()
        for field in [7, 0] as [UInt32] { withUnsafeBytes(of: field.littleEndian) { record.append(contentsOf: $0) } }
        for field in [0, 0, 40] as [UInt64] {
            withUnsafeBytes(of: field.littleEndian) { record.append(contentsOf: $0) }
        }
        try flip(rig, record, at: 24)
        #expect(rig.cache.damagedSequences == [SequenceID(1)])
        #expect(rig.cache.sequences.map(\.id) == [SequenceID(2), SequenceID(3)])
        expect(.storeDamaged, "record of sequence #1") { _ = try rig.holds(1, Self.tags) }
        expect(.storeDamaged, "record of sequence #1") { try rig.open(1) }
        #expect(try rig.holds(3, Array(Self.tags[..<32])), "a fork has its own record")
        try rig.close(1)
        try rig.open(1)
        #expect(try rig.holds(1, []))
        try rig.reopen()
        #expect(rig.cache.damagedSequences.isEmpty)
        try rig.close(3)
        try rig.settle()
        #expect(try rig.cache.statistics().sealedBlocks == 0)
    }
}
