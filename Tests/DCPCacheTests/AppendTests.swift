// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCache
import DCPCore
import DCPStore
import Testing

@Suite("append and rewind")
struct AppendTests {
    @Test("a step that does not start at the layer's end is refused, with both numbers")
    func positions() throws {
        let rig = try Rig()
        try rig.open(1)
        try rig.append(1, layer: 0, at: 0, [1, 2, 3])
        expect(.positionMismatch, "3 tokens", "position 2") { try rig.append(1, layer: 0, at: 2, [9]) }
        expect(.positionMismatch, "3 tokens", "position 4") { try rig.append(1, layer: 0, at: 4, [9]) }
        #expect(try rig.state(1).layerLengths == [3, 0])
        expect(.positionMismatch, "Layer 1", "0 tokens", "3") { try rig.commit(1, 3) }
        expect(.positionMismatch, "4") { _ = try rig.holds(1, [1, 2, 3, 4]) }
        expect(.unknownSequence, "sequence #2") { try rig.append(2, layer: 0, at: 0, [9]) }
        expect(.invalidRequest, "Layer 2") { try rig.append(1, layer: 2, at: 0, [9]) }
    }

    @Test("values that are not finite change nothing, in any format", arguments: CacheFormat.allCases)
    func nonFinite(_ format: CacheFormat) throws {
        let rig = try Rig(layers: 1, format: format, kvHeads: 1, dims: (8, 8))
        try rig.open(1)
        try rig.append(1, layer: 0, at: 0, [1, 2, 3])
        for bad in [Float.nan, .infinity] {
            // The last of 20 tokens is bad: two blocks have been written by then.
            var numbers = [Float](repeating: 1, count: 20 * 8)
            numbers[20 * 8 - 1] = bad
            expect(.invalidRequest, format.name) {
                try numbers.withUnsafeBytes { bytes in
                    let base = try #require(bytes.baseAddress)
                    try rig.cache.append(
                        sequence: SequenceID(1), layer: 0, position: 3,
                        rows: KeyValueRows(dataType: .float32, keys: base, values: base, tokens: 20), tokens: 0..<20)
                }
            }
            #expect(try rig.state(1).layerLengths == [3])
            #expect(try isZeroed(rig, from: 3))
        }
        try rig.append(1, layer: 0, at: 3, [4])
        #expect(try rig.holds(1, [1, 2, 3, 4]))
    }

    @Test("rewound tokens leave nothing behind, and a reader of them keeps them")
    func rewind() throws {
        let rig = try Rig(interleave: 4)
        try rig.open(1)
        let tags = (0..<UInt32(40)).map { $0 + 5 }
        try rig.appendAll(1, at: 0, tags)
        try rig.commit(1, 18)
        let reader = try rig.cache.context(sequence: SequenceID(1), layer: 0, length: 40)
        try rig.cache.rewind(sequence: SequenceID(1), layer: 0, length: 21)
        try rig.append(1, layer: 0, at: 21, [900, 901])
        #expect(rig.matches(reader, tags, layer: 0), "the reader's bytes are unchanged")
        #expect(try rig.holds(1, Array(tags[..<21]) + [900, 901], layers: [0]))
        #expect(try isZeroed(rig, from: 23))
        #expect(try rig.holds(1, tags, layers: [1]), "the other layer is as it was")
        expect(.positionMismatch, "18", "17") {
            try rig.cache.rewind(sequence: SequenceID(1), layer: 1, length: 17)
        }
        expect(.positionMismatch, "23", "24") {
            try rig.cache.rewind(sequence: SequenceID(1), layer: 0, length: 24)
        }
    }

    /// Whether the places from `token` on in the last block of layer 0 are zero. Rank 0 of 1.
    private func isZeroed(_ rig: Rig, from token: Int) throws -> Bool {
        let reader = try rig.cache.context(sequence: SequenceID(1), layer: 0, length: Position(token))
        let last = try #require(reader.blocks.last)
        var row = [UInt8](repeating: 1, count: reader.layout.rowByteCount)
        for place in (token % 16)..<16 where token % 16 != 0 {
            try row.withUnsafeMutableBytes {
                reader.layout.read(token: place, of: last, into: try #require($0.baseAddress))
            }
            // Of formats with scales a zero may be a negative one.
            if row.contains(where: { $0 != 0 && $0 != 0x80 }) { return false }
        }
        return true
    }

    @Test("too many uncommitted bytes in open blocks are refused as retryable, and committing makes room")
    func bound() throws {
        let row = 2 * 18 * 4
        let rig = try Rig(
            settings: ShardCache.Settings(
                mapByteCountMax: 1 << 30, durability: .never, uncommittedByteCountMax: 20 * row))
        try rig.open(1)
        try rig.open(2)
        try rig.appendAll(1, at: 0, [1, 2, 3, 4, 5])
        try rig.appendAll(2, at: 0, [1, 2, 3, 4, 5])
        expect(.overloaded, "\(20 * row)", "commit or rewind") { try rig.append(1, layer: 0, at: 5, [6]) }
        #expect(try rig.state(1).layerLengths == [5, 5])
        // The other layers must accept what one layer has accepted, or it could never be committed.
        try rig.cache.rewind(sequence: SequenceID(1), layer: 0, length: 3)
        try rig.open(3)
        try rig.append(3, layer: 0, at: 0, [1, 2])
        try rig.append(3, layer: 1, at: 0, [1, 2])
        try rig.append(1, layer: 0, at: 3, [4, 5])
        #expect(try rig.cache.statistics().uncommittedByteCount == 24 * row)
        expect(.overloaded) { try rig.append(3, layer: 0, at: 2, [3]) }
        try rig.commit(1, 5)
        #expect(try rig.cache.statistics().uncommittedByteCount == 14 * row)
        try rig.appendAll(1, at: 5, [6, 7, 8])
        try rig.truncate(1, 5)
        #expect(try rig.cache.statistics().uncommittedByteCount == 14 * row)
        #expect(try rig.state(1).layerLengths == [5, 5])
        #expect(try rig.cache.statistics().blocksSpilled == 0)
    }

    @Test("RAM blocks go when they are sealed, rewound or closed")
    func memory() throws {
        let rig = try Rig()
        try rig.open(1)
        try rig.appendAll(1, at: 0, [UInt32](repeating: 4, count: 100))
        let block = 16 * 2 * 18 * 4
        #expect(try rig.cache.statistics().memoryByteCount == 2 * 7 * block)
        try rig.commit(1, 70)
        #expect(try rig.cache.statistics().memoryByteCount == 2 * 3 * block)
        #expect(try rig.cache.statistics().sealedBlocks == 2 * 4)
        try rig.close(1)
        #expect(try rig.cache.statistics().memoryByteCount == 0)
        #expect(try rig.cache.statistics().uncommittedByteCount == 0)
        #expect(try rig.cache.statistics().sealedBlocks == 0)
    }

    @Test("RAM blocks are made of what earlier ones gave back, up to a bound, and show nothing of those")
    func reuse() throws {
        let block = 16 * 2 * 18 * 4
        let rig = try Rig(
            settings: ShardCache.Settings(
                mapByteCountMax: 1 << 30, durability: .never, spareByteCountMax: 5 * block))
        try rig.open(1)
        try rig.appendAll(1, at: 0, [UInt32](repeating: 4, count: 64))
        try rig.commit(1, 64)
        // Eight blocks were sealed; five are kept.
        #expect(try rig.cache.statistics().memoryByteCount == 0)
        #expect(try rig.cache.statistics().spareByteCount == 5 * block)
        try rig.open(2)
        let tags: [UInt32] = [7, 8, 9]
        try rig.appendAll(2, at: 0, tags)
        #expect(try rig.cache.statistics().memoryByteCount == 2 * block)
        #expect(try rig.cache.statistics().spareByteCount == 3 * block)
        #expect(try rig.holds(2, tags))
        var row = [UInt8](repeating: 1, count: 2 * 18 * 4)
        for layer in 0..<2 {
            let context = try rig.cache.context(sequence: SequenceID(2), layer: layer, length: 3)
            for token in 3..<16 {
                row.withUnsafeMutableBytes { bytes in
                    guard let base = bytes.baseAddress else { return }
                    context.layout.read(token: token, of: context.blocks[0], into: base)
                }
                #expect(row.allSatisfy { $0 == 0 })
            }
        }
    }

    /// - Parameter spare: blocks that are kept at most: of 128 KiB 16 stand in a huge page; 24 take two, of which one stays half untouched. Of
    ///   48 KiB 42 do.
    @Test(
        "blocks share mappings, and beyond the bound their memory goes back and comes again",
        arguments: [(dim: 128, spare: 15), (dim: 48, spare: 42)])
    func sharedMappings(dim: Int, spare: Int) throws {
        let block = 64 * 2 * 2 * dim * 4
        let rig = try Rig(
            blockTokens: 64, layers: 1, dims: (dim, dim),
            settings: ShardCache.Settings(mapByteCountMax: 1 << 30, durability: .never, spareByteCountMax: 3 * block))
        for id in 1...3 as ClosedRange<UInt64> {
            let tags = (0..<24 * 64).map { UInt32($0) * 7 + UInt32(id) }
            try rig.open(id)
            try rig.append(id, layer: 0, at: 0, Array(tags[..<1000]))
            try rig.append(id, layer: 0, at: 1000, Array(tags[1000...]))
            #expect(try rig.cache.statistics().memoryByteCount == 24 * block)
            #expect(try rig.holds(id, tags))
            try rig.commit(id, tags.count)
            let statistics = try rig.cache.statistics()
            #expect(statistics.memoryByteCount == 0 && statistics.spareByteCount <= spare * block)
            #expect(try rig.holds(id, tags))
        }
    }
}
