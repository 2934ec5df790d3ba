// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPTestKit
import Testing

/// One conversation's inputs, all layers, with what the cluster must answer.
struct Trace: Sendable {
    struct Layer: Sendable {
        /// `[tokens][Hq][Dk]`
        var queries: [Float]
        /// `[tokens][Hkv][Dk]`
        var keys: [Float]
        /// `[tokens][Hkv][Dv]`; none where the keys hold them.
        var values: [Float]
    }

    let shape: ModelDescription
    let tokens: Int
    var layers: [Layer]
    /// The dtype in which steps bring queries, keys and values.
    var wireType = DataType.float32

    /// - Parameter salt: traces of the same shape, length and salt are the same in one run.
    init(_ shape: ModelDescription, tokens: Int, salt: UInt64) {
        self.init(
            shape, tokens: tokens,
            layers: (0..<shape.layers).map { layer in
                let kind = shape[layer]
                var generator = SeededGenerator.ofRun(salt: salt &* 1021 &+ UInt64(layer))
                return Layer(
                    queries: generator.distinctRows(tokens: tokens, heads: kind.queryHeads, dim: kind.keyDim, limit: 2),
                    keys: generator.distinctRows(tokens: tokens, heads: kind.kvHeads, dim: kind.keyDim),
                    values: generator.distinctRows(tokens: tokens, heads: kind.kvHeads, dim: kind.ownValueDim))
            })
    }

    init(_ shape: ModelDescription, tokens: Int, layers: [Layer]) {
        self.shape = shape
        self.tokens = tokens
        self.layers = layers
    }

    struct StepRows: Sendable {
        var queries: TokenRows
        var keys: TokenRows
        /// nil where the keys hold them.
        var values: TokenRows?
    }

    func rows(_ layer: Int, _ range: Range<Int>) -> StepRows {
        func some(_ rows: [Float], _ heads: Int, _ dim: Int) -> TokenRows {
            let part = Array(rows[range.lowerBound * heads * dim..<range.upperBound * heads * dim])
            return TokenRows(
                dataType: wireType, tokens: range.count, heads: heads, dim: dim,
                bytes: Rounding.bytes(part, as: wireType))
        }
        let kind = shape[layer]
        return StepRows(
            queries: some(layers[layer].queries, kind.queryHeads, kind.keyDim),
            keys: some(layers[layer].keys, kind.kvHeads, kind.keyDim),
            values: kind.ownValueDim == 0 ? nil : some(layers[layer].values, kind.kvHeads, kind.ownValueDim))
    }

    /// Some tokens' answer in Float64, over keys and values as the cache holds them.
    func reference(_ layer: Int, _ range: Range<Int>) -> ReferenceAttention.Result {
        func some(_ rows: [Float], _ heads: Int, _ dim: Int, _ range: Range<Int>) -> [Float] {
            Rounding.rounded(
                Array(rows[range.lowerBound * heads * dim..<range.upperBound * heads * dim]), to: wireType)
        }
        let (seen, kind) = (0..<range.upperBound, shape[layer])
        return ReferenceAttention(kind).attend(
            queries: some(layers[layer].queries, kind.queryHeads, kind.keyDim, range),
            keys: Rounding.kept(
                some(layers[layer].keys, kind.kvHeads, kind.keyDim, seen), dim: kind.keyDim, areKeys: true,
                shape.kvFormat),
            values: Rounding.kept(
                some(layers[layer].values, kind.kvHeads, kind.ownValueDim, seen), dim: kind.ownValueDim, areKeys: false,
                shape.kvFormat),
            position: range.lowerBound, sinks: shape.sinks[layer])
    }

    /// Compares with the reference: Float32 arithmetic over at most a few thousand keys differs by less.
    func check(
        _ answer: Answer, layer: Int = 0, _ range: Range<Int>, _ what: String,
        sourceLocation: SourceLocation = #_sourceLocation
    ) {
        let reference = reference(layer, range)
        let (output, lse) = answer.errors(reference)
        // Where bytes are multiplied, queries and weights have 16 bits.
        let rounding = shape.kvFormat == .int8 ? 5e-4 : 0
        #expect(
            output <= rounding + Answer.outputErrorMax && lse <= rounding + Answer.lseErrorMax,
            "\(what), layer \(layer), tokens \(range): o off by \(output), lse by \(lse); DCP_SEED=\(SeededGenerator.seed)",
            sourceLocation: sourceLocation)
    }

    /// Compares all layers of a whole conversation.
    func check(_ answers: [Answer], _ what: String, sourceLocation: SourceLocation = #_sourceLocation) {
        for (layer, answer) in answers.enumerated() {
            check(answer, layer: layer, 0..<tokens, what, sourceLocation: sourceLocation)
        }
    }
}

/// Outputs and LSE of some tokens, token-major. Equal means equal bits.
struct Answer: Equatable, Sendable {
    private(set) var outputs: [Float] = []
    private(set) var lse: [Float] = []

    static let outputErrorMax = 1e-5
    static let lseErrorMax = 1e-5

    mutating func append(_ output: AttentionOutput) {
        outputs += output.outputs
        lse += output.lse
    }

    init() {}

    init(joining parts: [Answer]) {
        for part in parts { append(part) }
    }

    init(_ output: AttentionOutput) { append(output) }

    init(outputs: [Float], lse: [Float]) {
        self.outputs = outputs
        self.lse = lse
    }

    /// The last tokens of it.
    func suffix(_ tokens: Int, of shape: ModelDescription, layer: Int = 0) -> Answer {
        let kind = shape[layer]
        return Answer(
            outputs: Array(outputs.suffix(tokens * kind.queryHeads * kind.valueDim)),
            lse: Array(lse.suffix(tokens * kind.queryHeads)))
    }

    /// The largest differences; NaN, and anything missing, counts as infinite.
    func errors(_ reference: ReferenceAttention.Result) -> (output: Double, lse: Double) {
        func worst(_ values: [Float], _ expected: [Double]) -> Double {
            guard values.count == expected.count else { return .infinity }
            return zip(values, expected).reduce(0) { worst, pair in
                let difference = abs(Double(pair.0) - pair.1)
                return difference.isNaN ? .infinity : max(worst, difference)
            }
        }
        return (worst(outputs, reference.outputs), worst(lse, reference.lse))
    }

    static func == (a: Answer, b: Answer) -> Bool {
        a.outputs.map(\.bitPattern) == b.outputs.map(\.bitPattern) && a.lse.map(\.bitPattern) == b.lse.map(\.bitPattern)
    }
}
