// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCore
import DCPTestKit
import Testing

/// A step of one layer over a context that is dealt to ranks, computed as they do and merged, and by the reference.
struct StepCase: CustomStringConvertible, Sendable {
    var format = CacheFormat.bfloat16
    var ranks = 1
    var interleave = 1
    var blockTokens = 48
    var kvHeads = 2
    var group = 2
    var keyDim = 16
    var values = LayerAttention.Values.own(24)
    var visibility = Visibility.all
    /// nil for the default of Dk.
    var scale: Float?
    var softcap: Float?
    /// One for each query head, or none.
    var sinks: [Float] = []
    /// Tokens before the step's.
    var context: Int
    var count: Int
    /// Whether the step's tokens are in the shards, and it brings queries alone.
    var isCached = false
    var kernels = AttentionKernels.chosen

    var description: String {
        "\(format.name), \(ranks) ranks, interleave \(interleave), B \(blockTokens), Hkv \(kvHeads) x \(group), "
            + "Dk \(keyDim), values \(values), \(visibility), sinks \(sinks.count), context \(context), count \(count)\(isCached ? ", cached" : ""), "
            + "kernels \(kernels)"
    }

    var heads: Int { kvHeads * group }
    var partition: HeadPartition { HeadPartition(queryHeads: heads, kvHeads: kvHeads, contextRanks: ranks) }
    var attention: LayerAttention {
        get throws {
            try LayerAttention(
                queryHeads: heads, kvHeads: kvHeads, keyDim: keyDim, values: values,
                scale: scale ?? LayerAttention.defaultScale(keyDim: keyDim), softcap: softcap, visibility: visibility,
                hasSinks: !sinks.isEmpty)
        }
    }
    var contextLayout: ContextLayout {
        get throws { try ContextLayout(contextRanks: ranks, interleave: interleave, blockTokens: blockTokens) }
    }

    /// Token-major; keys and values of the context and of the step.
    struct Inputs: Sendable {
        var queries: [Float]
        var keys: [Float]
        var values: [Float]
    }

    /// Distinct for each head and position, keys and values rounded to the cache format.
    func inputs(salt: UInt64) throws -> Inputs {
        var generator = SeededGenerator.ofRun(salt: salt)
        let tokens = context + count
        return Inputs(
            queries: generator.distinctRows(tokens: count, heads: heads, dim: keyDim, limit: 8),
            keys: Rounding.kept(
                generator.distinctRows(tokens: tokens, heads: kvHeads, dim: keyDim), dim: keyDim, areKeys: true, format),
            values: Rounding.kept(
                generator.distinctRows(tokens: tokens, heads: kvHeads, dim: try attention.ownValueDim),
                dim: try attention.ownValueDim, areKeys: false, format))
    }

    func reference(_ inputs: Inputs) throws -> ReferenceAttention.Result {
        ReferenceAttention(try attention).attend(
            queries: inputs.queries, keys: inputs.keys, values: inputs.values, position: context, sinks: sinks)
    }

    /// Rows `[heads][count]`.
    func states(
        _ inputs: Inputs, heads: Range<Int>, over tokens: [Int], visible: VisibleTokens
    ) throws -> AttentionStates {
        let attention = try attention
        let layout = PanelLayout(attention, format, kvHeads: kvHeads, blockTokens: blockTokens)
        func rows(_ all: [Float], _ width: Int) -> [Float] {
            tokens.flatMap { all[$0 * width..<($0 + 1) * width] }
        }
        let panels = TestPanels(
            layout: layout, keys: rows(inputs.keys, kvHeads * keyDim),
            values: rows(inputs.values, kvHeads * attention.ownValueDim), tokens: tokens.count)
        let work = AttentionWork(
            attention: attention, partition: partition, heads: heads,
            queries: QueryRows(
                heads: 0..<self.heads, tokens: count, keyDim: keyDim,
                values: RowOrder.headMajor(inputs.queries, tokens: count, heads: self.heads, dim: keyDim)),
            tokens: 0..<count, visible: visible, over: panels.blocks, kernels: kernels)
        for piece in 0..<work.pieceCount { work.run(piece: piece) }
        // Poison: every row has to be written.
        var states = AttentionStates(
            valueDim: attention.valueDim,
            outputs: [Float](repeating: .nan, count: heads.count * count * attention.valueDim),
            lse: [Double](repeating: .nan, count: heads.count * count))
        withExtendedLifetime(panels) { work.finish(into: &states) }
        return states
    }

    /// A rank's part of the context, over all of its blocks or from the first one that any query sees.
    func partial(_ inputs: Inputs, rank: Int, overAll: Bool) throws -> AttentionStates {
        let layout = try contextLayout
        let length = layout.localLength(ofRank: rank, length: context + (isCached ? count : 0))
        let first = layout.localLength(ofRank: rank, length: visibility.first(seenFrom: context))
        let local = (overAll ? 0 : first / blockTokens * blockTokens)..<length
        return try states(
            inputs, heads: 0..<heads, over: local.map { layout.position(ofLocalIndex: $0, rank: rank) },
            visible: .context(
                visibility, seenFrom: context..<context + count, areOwn: isCached, of: layout, rank: rank,
                local: LocalIndex(local.lowerBound)..<LocalIndex(local.upperBound)))
    }

    /// The part of the step's own tokens, of some heads.
    func new(_ inputs: Inputs, heads: Range<Int>) throws -> AttentionStates {
        try states(
            inputs, heads: heads, over: Array(context..<context + count),
            visible: .new(visibility, at: context..<context + count))
    }

    /// All ranks' own heads, each merged by its owner.
    func merged(_ inputs: Inputs, partials: [AttentionStates]) throws -> AttentionStates {
        AttentionStates(
            joining: try (0..<ranks).map { rank in
                let own = partition.ownHeads(ofRank: rank)
                let rows = own.lowerBound * count..<own.upperBound * count
                let context = try AttentionStates.merge(partials.map { $0.slice(rows: rows) })
                return try AttentionStates.merge(
                    isCached ? [context] : [context, new(inputs, heads: own)],
                    sinks: sinks.isEmpty ? [] : Array(sinks[own]))
            })
    }

    func tolerance(_ inputs: Inputs) throws -> Double {
        try ReferenceAttention(attention).tolerance(
            queries: inputs.queries, keys: inputs.keys,
            scoreErrorMax: AttentionWork.scoreErrorMax(format, keyDim: keyDim, kernels))
    }

    /// Compares with the reference, and each rank's part over all of its blocks with that over those that are seen.
    func check(salt: UInt64, weightErrorMax: Double = 0x1p-17, sourceLocation: SourceLocation = #_sourceLocation) throws
    {
        let inputs = try inputs(salt: salt)
        let partials = try (0..<ranks).map { rank in
            let seen = try partial(inputs, rank: rank, overAll: false)
            let all = try partial(inputs, rank: rank, overAll: true)
            #expect(
                seen == all, "\(self), rank \(rank); DCP_SEED=\(SeededGenerator.seed)", sourceLocation: sourceLocation)
            return seen
        }
        let difference = Difference(try merged(inputs, partials: partials), try reference(inputs), tokens: count)
        let tolerance = try tolerance(inputs)
        #expect(
            difference.output <= tolerance + weightErrorMax && difference.lse <= tolerance,
            "\(self): o off by \(difference.output), lse by \(difference.lse); DCP_SEED=\(SeededGenerator.seed)",
            sourceLocation: sourceLocation)
    }
}
