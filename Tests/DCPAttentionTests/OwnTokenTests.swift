// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCore
import DCPTestKit
import Testing

@Suite("a token that sees itself alone")
struct OwnTokenTests {
    @Test(
        "is as exact as through panels, for any format, dimensions and slice of heads", arguments: CacheFormat.ofRows)
    func exact(format: CacheFormat) throws {
        var random = SeededGenerator.ofRun(salt: 77)
        for (kvHeads, group, keyDim, values, softcap) in [
            (8, 4, 128, LayerAttention.Values.own(128), nil), (1, 16, 576, .leading(512), nil),
            (3, 1, 10, .own(14), Float(2)), (2, 3, 72, .own(8), nil),
        ] {
            let heads = kvHeads * group, tokens = 5
            let attention = try LayerAttention(
                queryHeads: heads, kvHeads: kvHeads, keyDim: keyDim, values: values,
                scale: LayerAttention.defaultScale(keyDim: keyDim), softcap: softcap)
            let partition = HeadPartition(queryHeads: heads, kvHeads: kvHeads, contextRanks: 1)
            let queries = QueryRows(
                heads: 0..<heads, tokens: tokens, keyDim: keyDim,
                values: random.floats(heads * tokens * keyDim, limit: 3))
            let keys = random.floats(kvHeads * tokens * keyDim, limit: 1)
            let own = random.floats(kvHeads * tokens * attention.ownValueDim + 1, limit: 1)
            for some in [0..<heads, heads / 3..<heads] {
                var direct = AttentionStates.empty(rows: some.count * tokens, valueDim: attention.valueDim)
                var panelled = direct
                let one = OwnToken(attention, format, partition: partition, heads: some)
                let layout = PanelLayout(attention, format, kvHeads: kvHeads, blockTokens: 64)
                try keys.withUnsafeBytes { keys in
                    try own.withUnsafeBytes { own in
                        let rows = KeyValueRows(
                            dataType: .float32, keys: keys.baseAddress!, values: own.baseAddress!, tokens: tokens)
                        for token in 0..<tokens {
                            try one.attend(token, queries, rows, into: &direct)
                            let panels = try NewTokenPanels(layout: layout, rows: rows, tokens: token..<token + 1)
                            let work = AttentionWork(
                                attention: attention, partition: partition, heads: some, queries: queries,
                                tokens: token..<token + 1, visible: .new(.all, at: 0..<1), over: panels.blocks)
                            for piece in 0..<work.pieceCount { work.run(piece: piece) }
                            work.finish(into: &panelled)
                        }
                    }
                }
                #expect(zip(direct.lse, panelled.lse).allSatisfy { abs($0 - $1) < 1e-5 })
                // A weight of two terms of bf16 may miss 1 by 2^-17.
                #expect(zip(direct.outputs, panelled.outputs).allSatisfy { abs($0 - $1) <= 0x1p-16 })
            }
        }
    }

    @Test("values that are not finite in the format of the cache are refused")
    func refused() throws {
        let attention = try LayerAttention(queryHeads: 1, kvHeads: 1, keyDim: 8, values: .own(8), scale: 1)
        let own = OwnToken(
            attention, .float16, partition: HeadPartition(queryHeads: 1, kvHeads: 1, contextRanks: 1), heads: 0..<1)
        let queries = QueryRows(heads: 0..<1, tokens: 1, keyDim: 8, values: [Float](repeating: 1, count: 8))
        for number in [Float(65_520), .infinity, -.infinity, .nan] {
            for place in 0..<2 {
                var rows = [[Float](repeating: 0, count: 8), [Float](repeating: 0, count: 8)]
                rows[place][3] = number
                rows[0].withUnsafeBytes { keys in
                    rows[1].withUnsafeBytes { values in
                        var states = AttentionStates.empty(rows: 1, valueDim: 8)
                        #expect(throws: ServiceError.self) {
                            try own.attend(
                                0, queries,
                                KeyValueRows(
                                    dataType: .float32, keys: keys.baseAddress!, values: values.baseAddress!, tokens: 1
                                ), into: &states)
                        }
                    }
                }
            }
        }
    }
}
