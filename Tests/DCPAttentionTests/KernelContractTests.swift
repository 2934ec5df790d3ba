// SPDX-License-Identifier: Apache-2.0

import CAttentionKernels
import DCPAttention
import DCPCore
import DCPTestKit
import Testing

/// The contract of the C kernels where `AttentionWork` does not reach: rows that see nothing of a block.
@Suite("kernel contract")
struct KernelContractTests {
    static let rows = 3
    static let dim = 20

    struct State: Equatable {
        var maximum = [Float](repeating: -.infinity, count: rows)
        var sum = [Float](repeating: 0, count: rows)
        var output = [Float](repeating: 0, count: rows * dim)
    }

    private func decode(
        _ queries: [Float], _ panels: TestPanels, block: Int, visible: SeenTokens, kernels: AttentionKernels,
        into state: inout State
    ) throws {
        let table = try #require(
            (0..<dcp_kernels_count()).compactMap { dcp_kernels($0) }.first {
                String(cString: $0.pointee.name) == kernels.name
            })
        let layout = panels.blocks.layout
        var terms = [UInt16](repeating: 0, count: 3 * queries.count)
        let termCount = dcp_split_queries(queries, Int64(queries.count), &terms, Int64(queries.count))
        state.maximum.withUnsafeMutableBufferPointer { maximum in
            state.sum.withUnsafeMutableBufferPointer { sum in
                state.output.withUnsafeMutableBufferPointer { output in
                    queries.withUnsafeBufferPointer { queries in
                        terms.withUnsafeBytes { terms in
                            var rows = dcp_attention_rows(
                                rows: Int32(Self.rows), key_dim: Int32(Self.dim), value_dim: Int32(Self.dim),
                                block_tokens: Int32(layout.blockTokens), value_tokens: Int32(layout.blockTokens),
                                terms: termCount, scale: 1, soft_cap: 0, light_share: 0, queries: queries.baseAddress,
                                plain_queries: queries.baseAddress,
                                query_terms: terms.assumingMemoryBound(to: UInt32.self).baseAddress,
                                maximum: maximum.baseAddress, sum: sum.baseAddress, output: output.baseAddress)
                            let payload = panels.blocks.blocks[block]
                            visible.withRanges {
                                dcp_attend_block(
                                    table, Int32(layout.format.rawValue), &rows,
                                    payload + layout.keyPanelOffset(ofHead: 0),
                                    payload + layout.valuePanelOffset(ofHead: 0), $0, dcp_ahead())
                            }
                        }
                    }
                }
            }
        }
    }

    @Test(
        "TRAPS 8: leading blocks that a row does not see leave it untouched, and later ones count in full",
        arguments: Variant.all)
    func leadingMaskedBlocks(variant: Variant) throws {
        var generator = SeededGenerator.ofRun(salt: 11)
        let queries = generator.floats(Self.rows * Self.dim, limit: 3)
        let layout = PanelLayout(
            format: variant.format, kvHeads: 1, keyDim: Self.dim, valueDim: Self.dim, blockTokens: 80)
        let panels = TestPanels(
            layout: layout, keys: generator.floats(160 * Self.dim), values: generator.floats(160 * Self.dim),
            tokens: 160)
        // Row 0 sees neither block, row 1 only the second, row 2 part of both.
        var state = State()
        try decode(
            queries, panels, block: 0, visible: SeenTokens(upTo: 0, 0, 65), kernels: variant.kernels, into: &state)
        #expect(state.maximum[1] == -.infinity && state.sum[1] == 0)
        try decode(
            queries, panels, block: 1, visible: SeenTokens(upTo: 0, 80, 31), kernels: variant.kernels, into: &state)
        #expect(state.maximum[0] == -.infinity && state.sum[0] == 0)
        #expect(state.output[..<Self.dim].allSatisfy { $0 == 0 })

        var second = State()
        try decode(
            queries, panels, block: 1, visible: SeenTokens(upTo: 0, 80, 0), kernels: variant.kernels, into: &second)
        #expect(state.maximum[1] == second.maximum[1] && state.sum[1] == second.sum[1])
        #expect(state.output[Self.dim..<2 * Self.dim] == second.output[Self.dim..<2 * Self.dim])
        #expect(state.output.allSatisfy { $0.isFinite } && state.sum[2] > 0)

        let untouched = state
        try decode(
            queries, panels, block: 0, visible: SeenTokens(upTo: 0, 0, 0), kernels: variant.kernels, into: &state)
        #expect(state == untouched)
    }

    @Test("TRAPS 8: a fully masked leading tile of scores leaves a row untouched and its weights 0")
    func leadingMaskedTile() {
        var maximum: [Float] = [-.infinity, -.infinity]
        var sum: [Float] = [0, 0]
        var output: [Float] = [0, 0, 0, 0]
        let unit = Float(sign: .plus, exponent: -Int(dcp_weight_shift), significand: 1)
        // 20 columns of a stride of 32; what lies beyond a row's visible tokens is NaN.
        var scores = [Float](repeating: .nan, count: 64)
        for column in 0..<17 { scores[32 + column] = Float(column) }
        SeenTokens(upTo: 0, 17).withRanges {
            dcp_softmax_tile(2, 20, &scores, 32, $0, 1, 0, &maximum, &sum, &output, 2)
        }
        #expect(maximum == [-.infinity, 16] && sum[0] == 0 && sum[1] > unit)
        #expect(scores[..<20].allSatisfy { $0 == 0 })
        #expect(scores[32 + 16] == unit && scores[(32 + 17)..<(32 + 20)].allSatisfy { $0 == 0 })

        for column in 0..<20 { scores[column] = 2 }
        SeenTokens(upTo: 20, 0).withRanges {
            dcp_softmax_tile(2, 20, &scores, 32, $0, 1, 0, &maximum, &sum, &output, 2)
        }
        #expect(maximum == [2, 16] && sum[0] == 20 * unit && scores[..<20].allSatisfy { $0 == unit })
        #expect(scores[32..<52].allSatisfy { $0 == 0 } && output.allSatisfy { $0 == 0 })
    }

    @Test("TRAPS 9: pieces without tokens do not count, whatever their scratch memory holds")
    func finishOfEmptyPieces() {
        let maximum: [Float] = [-.infinity, 3, -.infinity]
        let sum: [Float] = [0, 2, 0]
        let output: [Float] = [.nan, .nan, 4, 8, .infinity, .nan]
        var result: [Float] = [9, 9]
        var lse = 9.0
        dcp_finish_row(3, 1, 2, 2, 0, maximum, sum, output, &result, &lse)
        #expect(result == [2, 4] && abs(lse - 3.693_147_2) < 1e-6)
        dcp_finish_row(1, 1, 2, 2, 0, maximum, sum, output, &result, &lse)
        #expect(result == [0, 0] && lse == -.infinity)
    }
}
