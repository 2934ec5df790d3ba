// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCore
import DCPTestKit
import Glibc
import Testing

@Suite("sums over many tokens")
struct LongSumTests {
    @Test(
        "25 million tokens: the log-sum-exp and the outputs are as exact as over a few",
        arguments: AttentionKernels.available, [CacheFormat.bfloat16, .float32])
    func long(kernels: AttentionKernels, format: CacheFormat) throws {
        for (group, scoreLimit) in [(1, Float(2)), (8, 0.3)] {
            let problem = AttentionCase(
                format: format, kvHeads: 1, group: group, keyDim: 8, valueDim: 8, length: 4096, blockTokens: 4096,
                scoreLimit: scoreLimit, kernels: kernels)
            let inputs = problem.inputs(salt: UInt64(group))
            let repeated = RepeatedBlocks(problem, inputs, copies: group == 1 ? 6104 : 800)
            let difference = Difference(try repeated.states(), try repeated.reference(), tokens: 1)
            // No more than a state of 4,096 tokens adds: 64 sums, each rounded by 2^-25 of what they share.
            let tolerance = try problem.tolerance(inputs) + 0x1p-19
            let light = try repeated.work().weightErrorMax > 0 ? 0x1p-14 : 0x1p-17
            #expect(
                difference.output <= tolerance + light && difference.lse <= tolerance,
                "\(problem): o off by \(difference.output), lse by \(difference.lse); DCP_SEED=\(SeededGenerator.seed)")
        }
    }

    @Test(
        "thousands of equal light weights beside a heavy one are off by 2^-14, or a little more in patterns of values",
        arguments: AttentionKernels.available)
    func light(kernels: AttentionKernels) throws {
        // More than 2,048 tokens: where weights are rounded to bf16.
        var problem = AttentionCase(
            format: .bfloat16, kvHeads: 1, group: 8, keyDim: 8, valueDim: 8, length: 8192, kernels: kernels)
        problem.scale = 1
        let zeros = [Float](repeating: 0, count: 7)
        // Values with a short period meet only as many of the rounding thresholds as the period has tokens.
        let patterns: [(value: (Int) -> Float, errorMax: Double)] = [
            ({ _ in 1 }, 0x1p-14), ({ $0 % 2 == 0 ? 1 : -1 }, 0x1p-13), ({ $0 % 4 == 1 ? 1 : -1 }, 0x1p-12),
            ({ $0 % 8 < 4 ? 1 : -1 }, 0x1p-11),
        ]
        for weight in [0.50195, 0.5020, 0.7, 0.0101, 0.00033] {
            for (value, errorMax) in patterns {
                let inputs = AttentionCase.Inputs(
                    queries: (0..<8).flatMap { _ in [Float(log(weight))] + zeros },
                    keys: (0..<8192).flatMap { [$0 == 0 ? Float(0) : 1] + zeros },
                    values: (0..<8192).flatMap { [Float](repeating: $0 == 0 ? 0 : value($0), count: 8) })
                let difference = Difference(try problem.states(inputs), try problem.reference(inputs), tokens: 1)
                #expect(
                    difference.output <= 2e-6 + errorMax && difference.lse <= 4e-6,
                    "\(problem), weights of \(weight): o off by \(difference.output), lse by \(difference.lse)")
            }
        }
    }
}
