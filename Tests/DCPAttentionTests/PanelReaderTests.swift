// SPDX-License-Identifier: Apache-2.0

import CAttentionKernels
import DCPAttention
import DCPCore
import DCPTestKit
import Testing

/// Reading rows back out of panels: each instruction set gives the scalar twin's bytes, and those are what was written.
@Suite("panel readers of all instruction sets")
struct PanelReaderTests {
    private struct Read: CustomStringConvertible {
        var layout: PanelLayout
        var tokens: Range<Int>

        var keyByteCount: Int { tokens.count * layout.kvHeads * layout.keyDim * layout.format.rowType.byteCount }
        var byteCount: Int { tokens.count * layout.rowByteCount }
        var description: String {
            "\(layout.format.name), \(layout.kvHeads) heads of \(layout.keyDim) and \(layout.ownValueDim), tokens "
                + "\(tokens) of \(layout.blockTokens)"
        }

        /// Keys, values, and a guard behind each that has to stay.
        func run(_ payload: [UInt8], _ kernels: AttentionKernels) throws -> [UInt8] {
            let guardBytes = [UInt8](repeating: 0xA5, count: 64)
            var keys = [UInt8](repeating: 0, count: keyByteCount) + guardBytes
            var values = [UInt8](repeating: 0, count: byteCount - keyByteCount) + guardBytes
            try payload.withUnsafeBytes { payload in
                try keys.withUnsafeMutableBytes { keys in
                    try values.withUnsafeMutableBytes { values in
                        layout.read(
                            tokens: tokens, of: try #require(payload.baseAddress), keys: try #require(keys.baseAddress),
                            values: try #require(values.baseAddress), kernels: kernels)
                    }
                }
            }
            #expect(keys.suffix(64) == guardBytes[...] && values.suffix(64) == guardBytes[...], "\(kernels), \(self)")
            return keys.dropLast(64) + values.dropLast(64)
        }
    }

    private static let dims = [
        (2, 2), (8, 10), (14, 16), (16, 8), (18, 34), (64, 64), (80, 72), (96, 98), (128, 128), (256, 254), (576, 512),
        (64, 0),
    ]

    @Test("any tokens of any block, whatever their bits", arguments: CacheFormat.ofRows)
    func readers(format: CacheFormat) throws {
        var random = SeededGenerator.ofRun(salt: UInt64(format.rawValue))
        for (keyDim, valueDim) in Self.dims {
            for blockTokens in [16, 64, 80] {
                let layout = PanelLayout(
                    format: format, kvHeads: 3, keyDim: keyDim,
                    values: valueDim > 0 ? .own(valueDim) : .leading(keyDim), blockTokens: blockTokens)
                let payload = (0..<layout.payloadByteCount).map { _ in UInt8.random(in: 0...255, using: &random) }
                let ranges = [0..<blockTokens, 0..<1, 1..<2, 1..<blockTokens, 3..<blockTokens - 2, 0..<0, 5..<14]
                for tokens in ranges {
                    let read = Read(layout: layout, tokens: tokens)
                    let expected = try read.run(payload, try AttentionKernels.named("scalar"))
                    for kernels in AttentionKernels.available {
                        #expect(
                            try read.run(payload, kernels) == expected,
                            "\(kernels), \(read); DCP_SEED=\(SeededGenerator.seed)")
                    }
                }
            }
        }
    }

    @Test("values written into panels are read back", arguments: CacheFormat.ofRows)
    func roundTrip(format: CacheFormat) throws {
        var random = SeededGenerator.ofRun(salt: 77 + UInt64(format.rawValue))
        let (heads, keyDim, valueDim, count) = (3, 40, 24, 50)
        let layout = PanelLayout(
            format: format, kvHeads: heads, keyDim: keyDim, valueDim: valueDim, blockTokens: 64)
        let keys = Rounding.rounded(random.floats(heads * count * keyDim), to: format.rowType)
        let values = Rounding.rounded(random.floats(heads * count * valueDim), to: format.rowType)
        let payload = UnsafeMutableRawPointer.allocate(byteCount: layout.payloadByteCount, alignment: 64)
        defer { payload.deallocate() }
        try Rounding.bytes(keys, as: format.rowType).withUnsafeBytes { keys in
            try Rounding.bytes(values, as: format.rowType).withUnsafeBytes { values in
                let rows = KeyValueRows(
                    dataType: format.rowType, keys: try #require(keys.baseAddress),
                    values: try #require(values.baseAddress),
                    tokens: count)
                #expect(layout.write(rows, rowTokens: (0..<UInt32(count)).map { $0 }, into: payload, at: 7))
            }
        }
        let stored = Array(UnsafeRawBufferPointer(start: payload, count: layout.payloadByteCount))
        let expected =
            Rounding.bytes(RowOrder.tokenMajor(keys, tokens: count, heads: heads, dim: keyDim), as: format.rowType)
            + Rounding.bytes(
                RowOrder.tokenMajor(values, tokens: count, heads: heads, dim: valueDim), as: format.rowType)
        #expect(try Read(layout: layout, tokens: 7..<57).run(stored, .chosen) == expected)
    }
}
