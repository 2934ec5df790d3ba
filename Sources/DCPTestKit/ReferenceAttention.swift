public import DCPCore
internal import Glibc

/// Dense attention in Float64: slow, obvious, and what every kernel is compared with.
public struct ReferenceAttention: Sendable {
    public let queryHeads: Int
    public let kvHeads: Int
    public let keyDim: Int
    public let valueDim: Int
    public let scale: Double
    public let softcap: Double?

    public init(_ model: ModelShape) {
        queryHeads = model.queryHeads
        kvHeads = model.kvHeads
        keyDim = model.keyDim
        valueDim = model.valueDim
        scale = Double(model.scale)
        softcap = model.softcap.map { Double($0) }
    }

    public struct Result: Sendable {
        /// `[tokens][queryHeads][valueDim]`
        public var outputs: [Double]
        /// `[tokens][queryHeads]`, natural; -inf for a query that sees nothing.
        public var lse: [Double]

        public init(outputs: [Double], lse: [Double]) {
            self.outputs = outputs
            self.lse = lse
        }
    }

    /// - Parameters:
    ///   - queries: `[tokens][queryHeads][keyDim]`
    ///   - keys: `[keyTokens][kvHeads][keyDim]`
    ///   - values: `[keyTokens][kvHeads][valueDim]`
    ///   - position: the position of the first query: query i sees keys 0...position + i. nil: every query sees all.
    public func attend(queries: [Float], keys: [Float], values: [Float], position: Int?) -> Result {
        let tokens = queries.count / (queryHeads * keyDim)
        let keyTokens = keys.count / (kvHeads * keyDim)
        precondition(values.count == keyTokens * kvHeads * valueDim)
        var result = Result(
            outputs: [Double](repeating: 0, count: tokens * queryHeads * valueDim),
            lse: [Double](repeating: -.infinity, count: tokens * queryHeads))
        for token in 0..<tokens {
            let seen = position.map { min($0 + token + 1, keyTokens) } ?? keyTokens
            for head in 0..<queryHeads {
                let kvHead = head / (queryHeads / kvHeads)
                let row = token * queryHeads + head
                let scores = (0..<seen).map { key in
                    var dot = 0.0
                    for d in 0..<keyDim {
                        dot += Double(queries[row * keyDim + d]) * Double(keys[(key * kvHeads + kvHead) * keyDim + d])
                    }
                    let score = dot * scale
                    return softcap.map { $0 * tanh(score / $0) } ?? score
                }
                guard let highest = scores.max() else { continue }
                let weights = scores.map { exp($0 - highest) }
                let total = weights.reduce(0, +)
                for (key, weight) in weights.enumerated() {
                    for d in 0..<valueDim {
                        result.outputs[row * valueDim + d] +=
                            weight / total * Double(values[(key * kvHeads + kvHead) * valueDim + d])
                    }
                }
                result.lse[row] = highest + log(total)
            }
        }
        return result
    }
}
