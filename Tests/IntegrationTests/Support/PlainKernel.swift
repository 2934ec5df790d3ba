// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCore
import DCPTestKit

/// Attention on one machine with the kernels alone: no rank, no cache, no wire.
struct PlainKernel {
    private let trace: Trace
    private let layout: PanelLayout

    init(_ trace: Trace, blockTokens: Int) {
        self.trace = trace
        let shape = trace.shape
        layout = PanelLayout(
            shape[0], shape.kvFormat, kvHeads: shape.kvHeads, blockTokens: blockTokens)
    }

    /// A step over some tokens of layer 0: the context, then the new tokens, then their merge.
    func attend(_ range: Range<Int>) throws -> Answer {
        let new = try newTokens(range)
        let isFirst = range.lowerBound == 0
        let states = isFirst ? new : try AttentionStates.merge([AttentionStates.merge([context(range)]), new])
        let heads = trace.shape.queryHeads
        return Answer(
            outputs: RowOrder.tokenMajor(states.outputs, tokens: range.count, heads: heads, dim: states.valueDim),
            lse: RowOrder.tokenMajor(states.lse.map { Float($0) }, tokens: range.count, heads: heads, dim: 1))
    }

    private func context(_ range: Range<Int>) -> AttentionStates {
        let layer = trace.layers[0]
        let panels = TestPanels(
            layout: layout, keys: part(layer.keys, 0..<range.lowerBound, trace.shape.kvHeads, trace.shape.keyDim),
            values: part(layer.values, 0..<range.lowerBound, trace.shape.kvHeads, trace.shape.valueDim),
            tokens: range.lowerBound)
        return withExtendedLifetime(panels) {
            run(range, panels.blocks, .all(count: range.count, of: range.lowerBound))
        }
    }

    private func newTokens(_ range: Range<Int>) throws -> AttentionStates {
        let (layer, shape) = (trace.layers[0], trace.shape)
        let keys = RowOrder.headMajor(
            part(layer.keys, range, shape.kvHeads, shape.keyDim), tokens: range.count, heads: shape.kvHeads,
            dim: shape.keyDim)
        let values = RowOrder.headMajor(
            part(layer.values, range, shape.kvHeads, shape.valueDim), tokens: range.count, heads: shape.kvHeads,
            dim: shape.valueDim)
        if range.count == 1 { return try alone(range, keys: keys, values: values) }
        let panels = try keys.withUnsafeBytes { keys in
            try values.withUnsafeBytes { values in
                try NewTokenPanels(
                    layout: PanelLayout(
                        shape[0], shape.kvFormat, kvHeads: shape.kvHeads, blockTokens: 64),
                    rows: KeyValueRows(
                        dataType: .float32, keys: keys.baseAddress!, values: values.baseAddress!,
                        tokens: range.count),
                    tokens: 0..<range.count)
            }
        }
        return withExtendedLifetime(panels) { run(range, panels.blocks, .new(.all, at: range)) }
    }

    /// Of a token beside no other.
    private func alone(_ range: Range<Int>, keys: [Float], values: [Float]) throws -> AttentionStates {
        let shape = trace.shape
        let own = OwnToken(shape[0], shape.kvFormat, partition: partition, heads: 0..<shape.queryHeads)
        var states = AttentionStates.empty(rows: shape.queryHeads, valueDim: shape.valueDim)
        try keys.withUnsafeBytes { keys in
            try values.withUnsafeBytes { values in
                let rows = KeyValueRows(
                    dataType: .float32, keys: keys.baseAddress!, values: values.baseAddress!, tokens: 1)
                try own.attend(0, queries(range), rows, into: &states)
            }
        }
        return states
    }

    private var partition: HeadPartition {
        HeadPartition(queryHeads: trace.shape.queryHeads, kvHeads: trace.shape.kvHeads, contextRanks: 1)
    }

    private func queries(_ range: Range<Int>) -> QueryRows {
        let shape = trace.shape
        let values = RowOrder.headMajor(
            part(trace.layers[0].queries, range, shape.queryHeads, shape.keyDim), tokens: range.count,
            heads: shape.queryHeads, dim: shape.keyDim)
        return QueryRows(heads: 0..<shape.queryHeads, tokens: range.count, keyDim: shape.keyDim, values: values)
    }

    private func run(_ range: Range<Int>, _ blocks: KVBlocks, _ visible: VisibleTokens) -> AttentionStates {
        let shape = trace.shape
        let work = AttentionWork(
            attention: shape[0], partition: partition, heads: 0..<shape.queryHeads, queries: queries(range),
            tokens: 0..<range.count, visible: visible, over: blocks)
        for piece in 0..<work.pieceCount { work.run(piece: piece) }
        var states = AttentionStates.empty(rows: shape.queryHeads * range.count, valueDim: shape.valueDim)
        work.finish(into: &states)
        return states
    }

    private func part(_ rows: [Float], _ range: Range<Int>, _ heads: Int, _ dim: Int) -> [Float] {
        Array(rows[range.lowerBound * heads * dim..<range.upperBound * heads * dim])
    }
}

extension Answer {
    mutating func append(_ other: Answer) {
        self = Answer(outputs: outputs + other.outputs, lse: lse + other.lse)
    }
}
