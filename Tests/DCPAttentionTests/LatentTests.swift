// SPDX-License-Identifier: Apache-2.0

import CAttentionKernels
import DCPAttention
import DCPCore
import DCPTestKit
import Testing

/// Attention whose values are the first dimensions of its keys.
@Suite("latent attention")
struct LatentTests {
    /// Dk, Dv.
    static let dims = [(576, 512), (160, 128), (8, 8), (40, 10), (302, 258), (64, 2 * 29)]

    @Test("any dimensions, blocks and rows are as exact as with values of their own", arguments: dims, Variant.ofRows)
    func context(dims: (Int, Int), variant: Variant) throws {
        var number = dims.0
        for (group, count) in [(1, 1), (16, 1), (128, 1), (3, 7), (2, 96), (5, 17)] {
            for context in [0, 1, 16, 63, 64, 65, 200] {
                number += 1
                // Rows of a few hundred dimensions take the reference long.
                guard group * count * context < 20_000 || number % 4 == 0 else { continue }
                try StepCase(
                    format: variant.format, blockTokens: [16, 48, 64, 80, 144, 4096][number % 6], kvHeads: 1,
                    group: group, keyDim: dims.0, values: .leading(dims.1), context: context, count: count,
                    kernels: variant.kernels
                ).check(salt: UInt64(number))
            }
        }
    }

    @Test("over ranks, with windows, soft caps, sinks and several KV heads", arguments: [1, 2, 3, 8], Variant.ofRows)
    func layouts(ranks: Int, variant: Variant) throws {
        var generator = SeededGenerator.ofRun(salt: 51)
        for (number, window) in [1, 17, 64, 1000].enumerated() {
            for (context, count) in [(0, 1), (5, 3), (130, 7), (333, 1)] {
                var step = StepCase(
                    format: variant.format, ranks: ranks, interleave: [1, 16][number % 2], kvHeads: 1 + number % 3,
                    group: [4, 16][number % 2], keyDim: 48, values: .leading(32),
                    visibility: number == 3 ? .all : .window(window), softcap: number % 2 == 0 ? nil : 6,
                    context: context, count: count, kernels: variant.kernels)
                if number % 2 == 0 { step.sinks = generator.floats(step.heads, limit: 6) }
                try step.check(salt: UInt64(window + context))
            }
        }
    }

    @Test("contexts of several pieces, and of tokens whose weights are rounded", arguments: Variant.ofRows)
    func large(variant: Variant) throws {
        for (group, context, count) in [(16, 5000, 1), (128, 4200, 1), (16, 3000, 9)] {
            try StepCase(
                format: variant.format, blockTokens: 64, kvHeads: 1, group: group, keyDim: 24, values: .leading(16),
                context: context, count: count, kernels: variant.kernels
            ).check(salt: UInt64(context), weightErrorMax: variant.format == .bfloat16 ? 0x1p-10 : 0)
        }
    }

    @Test(
        "values made of keys are the scalar twin's bits, and nothing beside them is written",
        arguments: CacheFormat.ofRows)
    func values(format: CacheFormat) {
        let tables = (0..<dcp_kernels_count()).compactMap { dcp_kernels($0) }
        var generator = SeededGenerator.ofRun(salt: 52)
        for blockTokens in [16, 48, 64, 80, 4096] {
            for dim in [2, 8, 14, 16, 30, 32, 34, 62, 66, 80, 128, 150, 512] {
                for (first, tokens) in [(0, 16), (0, blockTokens), (blockTokens - 16, 16), (blockTokens / 32 * 16, 16)]
                where tokens <= 144 {
                    let size = format.elementByteCount
                    let keys = (0..<blockTokens * dim * size).map { _ in UInt8(truncatingIfNeeded: generator.next()) }
                    let offset = first * (format == .bfloat16 ? 4 : size)
                    // Into a panel of that many tokens, or of more.
                    let panelTokens = tokens + Int(generator.next() % 2) * 16
                    var expected: [UInt8]?
                    for table in tables {
                        var values = [UInt8](repeating: 0xA5, count: panelTokens * dim * size + 64)
                        keys.withUnsafeBytes {
                            dcp_values_of_keys(
                                table, Int32(format.rawValue), $0.baseAddress! + offset, Int64(blockTokens),
                                Int64(dim), Int64(tokens), &values, Int64(panelTokens))
                        }
                        #expect(values.suffix(64).allSatisfy { $0 == 0xA5 })
                        #expect(
                            values == expected ?? values, "\(String(cString: table.pointee.name)), \(dim), \(tokens)")
                        expected = expected ?? values
                    }
                    // By the definition of both panels.
                    func at(_ token: Int, _ d: Int) -> Int {
                        PanelPlaces.key(token: first + token, dim: d, blockTokens: blockTokens, format)
                    }
                    for token in [0, 1, tokens / 2, tokens - 1] {
                        for d in [0, 1, dim - 1] {
                            let place = PanelPlaces.value(
                                token: token, dim: d, valueDim: dim, tokens: panelTokens, format)
                            let made = expected?[place * size..<(place + 1) * size]
                            #expect(made == keys[at(token, d) * size..<(at(token, d) + 1) * size])
                        }
                    }
                }
            }
        }
    }

    @Test(
        "a block has one panel for each KV head; a row is read back as it was written", arguments: CacheFormat.ofRows)
    func rows(format: CacheFormat) throws {
        let attention = try LayerAttention(queryHeads: 4, kvHeads: 2, keyDim: 40, values: .leading(24), scale: 1)
        let layout = PanelLayout(attention, format, kvHeads: 2, blockTokens: 48)
        #expect(layout.payloadByteCount == 2 * 40 * 48 * format.elementByteCount)
        #expect(layout.rowByteCount == 2 * 40 * format.elementByteCount && layout.valuePanelByteCount == 0)
        var generator = SeededGenerator.ofRun(salt: 53)
        let keys = Rounding.rounded(generator.distinctRows(tokens: 48, heads: 2, dim: 40), to: format.rowType)
        let panels = TestPanels(layout: layout, keys: keys, values: [], tokens: 48)
        let copy = UnsafeMutableRawPointer.allocate(byteCount: layout.payloadByteCount, alignment: 64)
        let row = UnsafeMutableRawPointer.allocate(byteCount: layout.rowByteCount, alignment: 64)
        defer {
            copy.deallocate()
            row.deallocate()
        }
        for token in 0..<48 {
            layout.read(token: token, of: panels.blocks.blocks[0], into: row)
            let bytes = [UInt8](UnsafeRawBufferPointer(start: row, count: layout.rowByteCount))
            #expect(bytes == Rounding.bytes(Array(keys[token * 80..<(token + 1) * 80]), as: format.rowType))
            layout.put(row, into: copy, at: token..<token + 1)
        }
        let written = UnsafeRawBufferPointer(start: copy, count: layout.payloadByteCount)
        #expect(written.elementsEqual(UnsafeRawBufferPointer(start: panels.blocks.blocks[0], count: written.count)))
        withExtendedLifetime(panels) {}
    }
}
