// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import Glibc

/// Dense attention in Float64: slow, obvious, and what every kernel is compared with.
public struct ReferenceAttention: Sendable {
    public let attention: LayerAttention

    public init(_ attention: LayerAttention) { self.attention = attention }

    public struct Result: Sendable {
        /// `[tokens][queryHeads][valueDim]`
        public var outputs: [Double]
        /// `[tokens][queryHeads]`, natural, sinks counted; -inf for a query that sees nothing.
        public var lse: [Double]

        public init(outputs: [Double], lse: [Double]) {
            self.outputs = outputs
            self.lse = lse
        }
    }

    /// - Parameters:
    ///   - queries: `[tokens][queryHeads][keyDim]`
    ///   - keys: `[keyTokens][kvHeads][keyDim]`
    ///   - values: `[keyTokens][kvHeads][valueDim]`; none where the keys hold them.
    ///   - position: the position of the first query, with keys from position 0 on: query i sees those up to position + i,
    ///     as far as the layer's visibility goes. nil: every query sees all.
    ///   - sinks: one for each query head, or none.
    public func attend(
        queries: [Float], keys: [Float], values: [Float], position: Int?, sinks: [Float] = []
    ) -> Result {
        let (queryHeads, kvHeads) = (attention.queryHeads, attention.kvHeads)
        let (keyDim, valueDim) = (attention.keyDim, attention.valueDim)
        let tokens = queries.count / (queryHeads * keyDim)
        let keyTokens = keys.count / (kvHeads * keyDim)
        precondition(values.count == keyTokens * kvHeads * attention.ownValueDim)
        precondition(sinks.isEmpty || sinks.count == queryHeads)
        // Leading values are read out of the keys' rows.
        let (held, stride) = attention.ownValueDim > 0 ? (values, valueDim) : (keys, keyDim)
        var result = Result(
            outputs: [Double](repeating: 0, count: tokens * queryHeads * valueDim),
            lse: [Double](repeating: -.infinity, count: tokens * queryHeads))
        for token in 0..<tokens {
            let end = position.map { min($0 + token + 1, keyTokens) } ?? keyTokens
            let seen = min(position.map { attention.visibility.first(seenFrom: $0 + token) } ?? 0, end)..<end
            for head in 0..<queryHeads {
                let kvHead = head / (queryHeads / kvHeads)
                let row = token * queryHeads + head
                let scores = seen.map { key in
                    var dot = 0.0
                    for d in 0..<keyDim {
                        dot += Double(queries[row * keyDim + d]) * Double(keys[(key * kvHeads + kvHead) * keyDim + d])
                    }
                    let score = dot * Double(attention.scale)
                    return attention.softcap.map { Double($0) * tanh(score / Double($0)) } ?? score
                }
                let sink = sinks.isEmpty ? [] : [Double(sinks[head])]
                guard let highest = (scores + sink).max() else { continue }
                let weights = scores.map { exp($0 - highest) }
                let total = sink.reduce(weights.reduce(0, +)) { $0 + exp($1 - highest) }
                for (key, weight) in zip(seen, weights) {
                    for d in 0..<valueDim {
                        result.outputs[row * valueDim + d] +=
                            weight / total * Double(held[(key * kvHeads + kvHead) * stride + d])
                    }
                }
                result.lse[row] = highest + log(total)
            }
        }
        return result
    }

    /// How far the log-sum-exp of a Float32 computation may be off, and an output over values below 1: a dot product in Float32
    /// is off by a few units of 2^-24 of the sum of its terms' magnitudes, which the product of the norms bounds; that is the
    /// error of the log-sum-exp, and the relative error of a weight. All kernels add a key's terms one after the other, so that
    /// it grows like the root of their number (Higham, Accuracy and Stability of Numerical Algorithms, 4.2).
    /// - Parameter scoreErrorMax: by how much a score may be off beside that, relative to the product of norms.
    public func tolerance(queries: [Float], keys: [Float], scoreErrorMax: Double = 0) -> Double {
        func largestNorm(_ rows: [Float]) -> Double {
            stride(from: 0, to: rows.count, by: attention.keyDim).reduce(0) { largest, start in
                let squares = rows[start..<start + attention.keyDim].reduce(0) { $0 + Double($1) * Double($1) }
                return max(largest, squares.squareRoot())
            }
        }
        let growth = max(1, (Double(attention.keyDim) / 128).squareRoot())
        return 2e-6 + (8e-7 * growth + scoreErrorMax) * largestNorm(queries) * largestNorm(keys)
            * Double(attention.scale)
    }
}
