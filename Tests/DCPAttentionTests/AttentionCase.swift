// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCore
import DCPTestKit
import Testing

/// One attention problem with its inputs, run through the kernels and through the reference.
struct AttentionCase: CustomStringConvertible, Sendable {
    var format = CacheFormat.float32
    var kvHeads = 2
    var group = 2
    var keyDim = 64
    var valueDim = 64
    /// Query tokens.
    var count = 1
    /// Key tokens; `count` of them when causal.
    var length = 64
    var causal = false
    var softcap: Float?
    var blockTokens = 64
    var contextRanks = 1
    /// Largest magnitude of a score, about; queries are made for it.
    var scoreLimit: Float = 8
    var kernels = AttentionKernels.chosen
    var prefetch = PrefetchTable()
    /// nil for the default of Dk.
    var scale: Float?

    var description: String {
        "\(format.name) Hkv \(kvHeads) x \(group) Dk \(keyDim) Dv \(valueDim) count \(count) length \(length) "
            + "causal \(causal) softcap \(softcap ?? 0) B \(blockTokens) scores \(scoreLimit) kernels \(kernels)"
    }

    var queryHeads: Int { kvHeads * group }
    var partition: HeadPartition {
        HeadPartition(queryHeads: queryHeads, kvHeads: kvHeads, contextRanks: contextRanks)
    }
    var layout: PanelLayout {
        PanelLayout(
            format: format, kvHeads: kvHeads, keyDim: keyDim, valueDim: valueDim, blockTokens: blockTokens)
    }
    func attention() throws -> LayerAttention {
        try LayerAttention(
            queryHeads: queryHeads, kvHeads: kvHeads, keyDim: keyDim, values: .own(valueDim),
            scale: scale ?? LayerAttention.defaultScale(keyDim: keyDim), softcap: softcap)
    }
    var visible: VisibleTokens {
        causal ? .new(.all, at: 0..<count) : .all(count: count, of: length)
    }

    /// Token-major, keys and values already rounded to the cache format.
    struct Inputs: Sendable {
        var queries: [Float]
        var keys: [Float]
        var values: [Float]
    }

    func inputs(salt: UInt64 = 0) -> Inputs {
        var generator = SeededGenerator.ofRun(salt: salt)
        var keys = generator.distinctRows(tokens: length, heads: kvHeads, dim: keyDim)
        // Numbers that int8 keeps apart: of some tokens, mostly in one dimension.
        for row in stride(from: 0, to: format.hasWords ? length * kvHeads : 0, by: 3) {
            keys[row * keyDim + (row % 7 == 0 ? row / 7 % keyDim : 5)] = 12
        }
        // |q . k| * scale is about limit * sqrt(Dk) / 3 * scale for independent numbers in -limit...limit and -1...1.
        return Inputs(
            queries: generator.distinctRows(tokens: count, heads: queryHeads, dim: keyDim, limit: scoreLimit),
            keys: Rounding.kept(keys, dim: keyDim, areKeys: true, format),
            values: Rounding.kept(
                generator.distinctRows(tokens: length, heads: kvHeads, dim: valueDim), dim: valueDim, areKeys: false,
                format))
    }

    func queryRows(_ inputs: Inputs) -> QueryRows {
        QueryRows(
            heads: 0..<queryHeads, tokens: count, keyDim: keyDim,
            values: RowOrder.headMajor(inputs.queries, tokens: count, heads: queryHeads, dim: keyDim))
    }

    func work(_ inputs: Inputs, panels: TestPanels, heads: Range<Int>? = nil) throws -> AttentionWork {
        AttentionWork(
            attention: try attention(), partition: partition, heads: heads ?? 0..<queryHeads,
            queries: queryRows(inputs), tokens: 0..<count, visible: visible, over: panels.blocks, kernels: kernels,
            prefetch: prefetch)
    }

    /// All pieces in order, on this thread. Rows `[heads][count]`.
    func states(_ inputs: Inputs, heads: Range<Int>? = nil) throws -> AttentionStates {
        let panels = TestPanels(layout: layout, keys: inputs.keys, values: inputs.values, tokens: length)
        let heads = heads ?? 0..<queryHeads
        let work = try work(inputs, panels: panels, heads: heads)
        for piece in 0..<work.pieceCount { work.run(piece: piece) }
        // Poison: every row has to be written.
        var states = AttentionStates(
            valueDim: valueDim, outputs: [Float](repeating: .nan, count: heads.count * count * valueDim),
            lse: [Double](repeating: .nan, count: heads.count * count))
        withExtendedLifetime(panels) { work.finish(into: &states) }
        return states
    }

    func reference(_ inputs: Inputs) throws -> ReferenceAttention.Result {
        ReferenceAttention(try attention()).attend(
            queries: inputs.queries, keys: Rounding.kept(inputs.keys, dim: keyDim, areKeys: true, format),
            values: Rounding.kept(inputs.values, dim: valueDim, areKeys: false, format), position: causal ? 0 : nil)
    }

    func tolerance(_ inputs: Inputs) throws -> Double {
        try ReferenceAttention(attention()).tolerance(
            queries: inputs.queries, keys: inputs.keys,
            scoreErrorMax: AttentionWork.scoreErrorMax(format, keyDim: keyDim, kernels))
    }

    /// Compares with the reference; records one issue with the largest difference.
    /// - Parameter weightErrorMax: nil for what the work promises.
    func check(
        _ inputs: Inputs, weightErrorMax: Float? = nil, sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        let states = try states(inputs)
        let difference = Difference(states, try reference(inputs), tokens: count)
        let tolerance = try tolerance(inputs)
        let panels = TestPanels(layout: layout, keys: inputs.keys, values: inputs.values, tokens: length)
        // Values are below 1, so a weight's error is the output's.
        let weightError = Double(try weightErrorMax ?? work(inputs, panels: panels).weightErrorMax)
        #expect(
            difference.output <= tolerance + weightError && difference.lse <= tolerance,
            "\(self): o off by \(difference.output), lse by \(difference.lse); DCP_SEED=\(SeededGenerator.seed)",
            sourceLocation: sourceLocation)
    }
}

/// A cache format and an instruction set: the grids run for all pairs.
struct Variant: CustomTestStringConvertible, Sendable {
    let format: CacheFormat
    let kernels: AttentionKernels

    static let all = ofRows + bytes
    /// Sets that differ in a kernel of int8 alone have nothing new for rows.
    static let ofRows = CacheFormat.ofRows.flatMap { format in
        AttentionKernels.available.filter { !$0.name.hasSuffix("vnni") && !$0.name.hasSuffix("dot") }
            .map { Variant(format: format, kernels: $0) }
    }
    static let bytes = CacheFormat.allCases.filter(\.hasScales).flatMap { format in
        AttentionKernels.available.map { Variant(format: format, kernels: $0) }
    }

    /// Dimensions that the format can keep: as many, or a few more.
    func dims(_ dims: Int) -> Int { format.hasScales ? (dims + 3) / 4 * 4 : dims }

    var testDescription: String { "\(format.name), \(kernels)" }
}

/// The largest absolute differences between head-major states and a token-major reference. NaN counts as infinite.
struct Difference {
    var output = 0.0
    var lse = 0.0

    init(_ states: AttentionStates, _ reference: ReferenceAttention.Result, tokens: Int) {
        let heads = tokens == 0 ? 0 : states.rows / tokens
        let outputs = RowOrder.tokenMajor(states.outputs, tokens: tokens, heads: heads, dim: states.valueDim)
        let lse = RowOrder.tokenMajor(states.lse, tokens: tokens, heads: heads, dim: 1)
        for (value, expected) in zip(outputs, reference.outputs) { Self.take(Double(value), expected, into: &output) }
        for (value, expected) in zip(lse, reference.lse) { Self.take(value, expected, into: &self.lse) }
        if outputs.count != reference.outputs.count || lse.count != reference.lse.count { output = .infinity }
    }

    private static func take(_ value: Double, _ expected: Double, into worst: inout Double) {
        if value == expected { return }
        let difference = abs(value - expected)
        worst = max(worst, difference.isNaN ? .infinity : difference)
    }
}
