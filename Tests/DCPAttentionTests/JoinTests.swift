// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCore
import DCPTestKit
import Testing

/// Scores of any size that Float32 holds exactly: a key's first dimension is 1, its second one of few small integers, and a
/// query's are the size and a step that Float32 has there. What then differs from Float64 is what joining parts adds.
private struct JoinCase: CustomStringConvertible {
    var format: CacheFormat
    var ranks: Int
    var interleave: Int
    var kvHeads: Int
    var group: Int
    var context: Int
    var count: Int
    var score: Float
    static let dim = 8

    var description: String {
        "\(format.name), \(ranks) ranks, interleave \(interleave), Hkv \(kvHeads) x \(group), context \(context), "
            + "count \(count), scores of \(score)"
    }

    var heads: Int { kvHeads * group }
    var partition: HeadPartition { HeadPartition(queryHeads: heads, kvHeads: kvHeads, contextRanks: ranks) }
    var attention: LayerAttention {
        get throws {
            try LayerAttention(
                queryHeads: heads, kvHeads: kvHeads, keyDim: Self.dim, values: .own(Self.dim), scale: 1)
        }
    }

    func inputs(_ generator: inout SeededGenerator) -> AttentionCase.Inputs {
        let zeros = [Float](repeating: 0, count: Self.dim - 2)
        let keys = (0..<(context + count) * kvHeads).flatMap { _ -> [Float] in
            [1, Float(Int.random(in: 0...3, using: &generator))] + zeros
        }
        let queries = (0..<count * heads).flatMap { row -> [Float] in
            [score, max(1, score.ulp) * (row % 2 == 0 ? 1 : -1)] + zeros
        }
        return AttentionCase.Inputs(
            queries: queries, keys: keys,
            values: Rounding.rounded(
                generator.distinctRows(tokens: context + count, heads: kvHeads, dim: Self.dim), to: format.rowType))
    }

    /// Attention of the tokens over some others, all heads.
    func states(_ inputs: AttentionCase.Inputs, over tokens: [Int], causal: Bool) throws -> AttentionStates {
        let row = kvHeads * Self.dim
        func rows(_ all: [Float]) -> [Float] { tokens.flatMap { all[$0 * row..<($0 + 1) * row] } }
        let panels = TestPanels(
            layout: PanelLayout(
                format: format, kvHeads: kvHeads, keyDim: Self.dim, valueDim: Self.dim, blockTokens: 48),
            keys: rows(inputs.keys), values: rows(inputs.values), tokens: tokens.count)
        let work = AttentionWork(
            attention: try attention, partition: partition, heads: 0..<heads,
            queries: QueryRows(
                heads: 0..<heads, tokens: count, keyDim: Self.dim,
                values: RowOrder.headMajor(inputs.queries, tokens: count, heads: heads, dim: Self.dim)),
            tokens: 0..<count,
            visible: causal ? .new(.all, at: 0..<count) : .all(count: count, of: tokens.count), over: panels.blocks)
        for piece in 0..<work.pieceCount { work.run(piece: piece) }
        var states = AttentionStates.empty(rows: heads * count, valueDim: Self.dim)
        withExtendedLifetime(panels) { work.finish(into: &states) }
        return states
    }

    func check(salt: UInt64) throws {
        var generator = SeededGenerator.ofRun(salt: salt)
        let inputs = inputs(&generator)
        let layout = try ContextLayout(contextRanks: ranks, interleave: interleave, blockTokens: 48)
        let partials = try (0..<ranks).map { rank in
            try states(
                inputs, over: (0..<context).filter { layout.owner(ofPosition: $0) == rank }, causal: false)
        }
        let new = try states(inputs, over: Array(context..<context + count), causal: true)
        let combined = try AttentionStates.combinedLSE(partials.map(\.lse))
        let shares = partials.map { $0.corrected(by: combined) }
        var slices: [AttentionStates] = []
        for rank in 0..<ranks {
            let own = partition.ownHeads(ofRank: rank)
            let rows = own.lowerBound * count..<own.upperBound * count
            let allToAll = try AttentionStates.merge([
                AttentionStates.merge(partials.map { $0.slice(rows: rows) }), new.slice(rows: rows),
            ])
            let summed = AttentionStates(
                valueDim: Self.dim,
                outputs: AttentionStates.sum(
                    of: shares.map { Array($0[rows.lowerBound * Self.dim..<rows.upperBound * Self.dim]) }),
                lse: combined.slice(rows: rows).values)
            #expect(try AttentionStates.merge([summed, new.slice(rows: rows)]) == allToAll, "\(self)")
            slices.append(allToAll)
        }
        let reference = ReferenceAttention(try attention).attend(
            queries: inputs.queries, keys: inputs.keys, values: inputs.values, position: context)
        let difference = Difference(AttentionStates(joining: slices), reference, tokens: count)
        // Weights of bf16 keep 16 bits.
        let tolerance = 2e-6 + (format == .bfloat16 ? 0x1p-17 : 0)
        #expect(
            difference.output <= tolerance && difference.lse <= 2e-6,
            "\(self): o off by \(difference.output), lse by \(difference.lse); DCP_SEED=\(SeededGenerator.seed)")
    }
}

@Suite("joins at any size of scores")
struct JoinTests {
    @Test(
        "parts of any layout weigh what their tokens weigh, by both exchange forms",
        arguments: [Float(0), 1e4, 1e5, 1e8],
        [1, 2, 3, 4, 8])
    func layouts(score: Float, ranks: Int) throws {
        var number = 0
        for interleave in [1, 3, 16] {
            for (kvHeads, group) in [(2, 2), (1, 8), (3, 3)] {
                for count in [1, 2, 7] {
                    for context in [1, 33, 700] {
                        number += 1
                        try JoinCase(
                            format: CacheFormat.ofRows[number % 3], ranks: ranks, interleave: interleave,
                            kvHeads: kvHeads, group: group, context: context, count: count, score: score
                        ).check(salt: UInt64(number))
                    }
                }
            }
        }
    }
}
