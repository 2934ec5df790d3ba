// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCore
import DCPTestKit
import Testing

@Suite("numbers at the ends of their range")
struct LargeNumberTests {
    /// The largest of each dtype.
    private func largest(_ format: CacheFormat) -> Float {
        Rounding.kept([format.rowType.inputMagnitudeMax], dim: 1, areKeys: false, format)[0]
    }

    @Test(
        "values up to the largest of their dtype give finite outputs, over one state and many", arguments: Variant.all)
    func values(variant: Variant) throws {
        let largest = largest(variant.format)
        for (number, (count, group, copies)) in [(1, 2, 1), (24, 1, 1), (1, 8, 40), (24, 2, 40), (2, 1, 300)]
            .enumerated()
        {
            for sign in [Float(1), -1, 0] {
                var generator = SeededGenerator.ofRun(salt: UInt64(number))
                let problem = AttentionCase(
                    format: variant.format, kvHeads: 1, group: group, keyDim: 16, valueDim: 24, count: count,
                    length: 192, kernels: variant.kernels)
                var inputs = problem.inputs(salt: UInt64(number))
                for index in inputs.values.indices {
                    // All of one sign, or each its own.
                    inputs.values[index] =
                        sign != 0 ? sign * largest : Bool.random(using: &generator) ? largest : -largest
                }
                let repeated = RepeatedBlocks(problem, inputs, copies: copies)
                let states = try repeated.states()
                #expect(states.outputs.allSatisfy { $0.isFinite }, "\(problem), \(copies) copies, sign \(sign)")
                var scaled = states, reference = try repeated.reference()
                scaled.outputs = states.outputs.map { $0 / largest }
                reference.outputs = reference.outputs.map { $0 / Double(largest) }
                let difference = Difference(scaled, reference, tokens: count)
                let tolerance = try problem.tolerance(inputs) + Double(repeated.work().weightErrorMax)
                #expect(
                    difference.output <= tolerance && difference.lse <= tolerance,
                    "\(problem), \(copies) copies: o off by \(difference.output), lse by \(difference.lse); DCP_SEED=\(SeededGenerator.seed)"
                )
                let merged = try AttentionStates.merge([
                    states, states, states, .empty(rows: states.rows, valueDim: 24),
                ])
                #expect(merged.outputs.allSatisfy { $0.isFinite })
            }
        }
    }

    @Test("queries and keys at their limits give finite scores, the same as in Float64", arguments: Variant.all)
    func scores(variant: Variant) throws {
        for (dim, scale) in [(8, Float(1e-30)), (64, 0.125), (256, 1), (254, 1e6), (8, 0x1p121)] {
            let keyDim = variant.dims(dim)
            for count in [1, 24] {
                var problem = AttentionCase(
                    format: variant.format, kvHeads: 1, group: 2, keyDim: keyDim, valueDim: 8, count: count,
                    length: 70,
                    kernels: variant.kernels)
                problem.scale = scale
                let limits = InputLimits(try problem.attention(), kvFormat: variant.format)
                var inputs = problem.inputs(salt: UInt64(keyDim))
                let key =
                    variant.format.hasScales
                    ? limits.key : Rounding.rounded([limits.key], to: variant.format.rowType)[0]
                for index in inputs.queries.indices {
                    inputs.queries[index] = index % 3 == 0 ? -limits.query : limits.query
                }
                for index in inputs.keys.indices { inputs.keys[index] = index / keyDim % 2 == 0 ? key : -key }
                let states = try problem.states(inputs), reference = try problem.reference(inputs)
                #expect(states.outputs.allSatisfy { $0.isFinite } && states.lse.allSatisfy { $0.isFinite })
                // Scores are equal or far apart. A sixth of a product of norms is the least of them.
                let tolerance = 1e-6 + 6 * AttentionWork.scoreErrorMax(variant.format, keyDim: keyDim, variant.kernels)
                let lse = RowOrder.tokenMajor(states.lse, tokens: count, heads: 2, dim: 1)
                #expect(zip(lse, reference.lse).allSatisfy { abs($0 - $1) <= tolerance * abs($1) }, "\(problem)")
                // sgemm may add up one column in another order than the next. Equal keys of int8, which are rotated, then have
                // scores that differ by what Float32 rounds, which is no small number here.
                guard variant.format != .int8 || variant.kernels.name != "scalar" || count == 1 else { continue }
                #expect(Difference(states, reference, tokens: count).output <= 1e-5, "\(problem)")
            }
        }
    }
}
