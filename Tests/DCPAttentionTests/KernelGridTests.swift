// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCore
import DCPTestKit
import Testing

@Suite("kernels against Float64")
struct KernelGridTests {
    /// Dk, Dv. TRAPS 46: not only powers of two, and nothing read past the end.
    static let dims = [
        (8, 8), (10, 10), (62, 62), (64, 64), (80, 80), (96, 96), (112, 112), (128, 128), (192, 192), (254, 254),
        (256, 256), (192, 128), (64, 10), (8, 256), (576, 512), (302, 450),
    ]

    @Test("TRAPS 26, 46: context of any length, dtype and head dimension", arguments: dims, Variant.all)
    func context(dims: (Int, Int), variant: Variant) throws {
        let dims = (variant.dims(dims.0), variant.dims(dims.1))
        let groups = [1, 2, 3, 4, 6, 8, 16]
        var number = dims.0 + Int(variant.format.rawValue)
        for length in [0, 1, 15, 16, 17, 63, 64, 65, 200] {
            for count in [1, 2, 7] {
                number += 1
                let problem = AttentionCase(
                    format: variant.format, kvHeads: 1 + number % 2, group: groups[number % groups.count],
                    keyDim: dims.0, valueDim: dims.1, count: count, length: length,
                    blockTokens: [16, 64, 48][number % 3], kernels: variant.kernels)
                try problem.check(problem.inputs(salt: UInt64(number)))
            }
        }
        for length in [0, 1, 65, 300] {
            let problem = AttentionCase(
                format: variant.format, kvHeads: 1, group: 3, keyDim: dims.0, valueDim: dims.1, count: 96,
                length: length, kernels: variant.kernels)
            try problem.check(problem.inputs(salt: UInt64(length)))
        }
    }

    @Test("a step's own tokens, causal, through both paths", arguments: dims, Variant.all)
    func causal(dims: (Int, Int), variant: Variant) throws {
        let dims = (variant.dims(dims.0), variant.dims(dims.1))
        for (number, count) in [1, 2, 7, 15, 16, 17, 64, 65, 96].enumerated() {
            let problem = AttentionCase(
                format: variant.format, kvHeads: 1 + number % 2, group: [1, 2, 4][number % 3], keyDim: dims.0,
                valueDim: dims.1, count: count, length: count, causal: true, blockTokens: [64, 16][number % 2],
                kernels: variant.kernels)
            try problem.check(problem.inputs(salt: UInt64(count)))
        }
    }

    @Test("1 to 16 query heads share a KV head", arguments: 1...16, AttentionKernels.available)
    func groups(group: Int, kernels: AttentionKernels) throws {
        for count in [1, 2, 9] {
            let problem = AttentionCase(
                format: .bfloat16, kvHeads: 3, group: group, keyDim: 16, valueDim: 24, count: count, length: 100,
                kernels: kernels)
            try problem.check(problem.inputs(salt: UInt64(group)))
        }
    }

    @Test("chunks of several row tiles and contexts of several pieces", arguments: Variant.all)
    func large(variant: Variant) throws {
        for (count, length, causal) in [
            (1, 6300, false), (3, 4096, false), (20, 4500, false), (50, 4501, false), (700, 700, true),
        ] {
            let problem = AttentionCase(
                format: variant.format, kvHeads: 1, group: 2, keyDim: 16, valueDim: 8, count: count, length: length,
                causal: causal, kernels: variant.kernels)
            try problem.check(problem.inputs(salt: UInt64(length)))
        }
    }

    @Test(
        "tokens that weigh much keep 16 bits beside thousands that weigh little", arguments: AttentionKernels.available)
    func heavy(kernels: AttentionKernels) throws {
        // So many tokens that weights may be rounded to bf16.
        let problem = AttentionCase(
            format: .bfloat16, kvHeads: 1, group: 8, keyDim: 16, valueDim: 8, length: 5000, kernels: kernels)
        var inputs = problem.inputs()
        for index in inputs.queries.indices { inputs.queries[index] = abs(inputs.queries[index]) + 1 }
        for (token, element) in [(1, Float(12)), (2500, 11.9375), (2501, 11.875), (4999, 11.75)] {
            for index in token * 16..<(token + 1) * 16 { inputs.keys[index] = element }
        }
        try problem.check(inputs, weightErrorMax: 0x1p-17)
    }

    @Test("TRAPS 47: as many tokens as heads, and as many dimensions, do not hide a transpose")
    func square() throws {
        for size in [8, 16] {
            let problem = AttentionCase(
                kvHeads: size / 2, group: 2, keyDim: size, valueDim: size, count: size, length: size, causal: true,
                blockTokens: 16)
            try problem.check(problem.inputs(salt: UInt64(size)))
        }
    }

    @Test("soft cap, both paths", arguments: Variant.all, [Float(0.5), 15, 50])
    func softcap(variant: Variant, cap: Float) throws {
        for (count, causal) in [(1, false), (5, true), (40, false), (40, true)] {
            let problem = AttentionCase(
                format: variant.format, count: count, length: causal ? count : 150, causal: causal, softcap: cap,
                scoreLimit: 40, kernels: variant.kernels)
            try problem.check(problem.inputs(salt: UInt64(count)))
        }
    }

    @Test("scores of +-1e4, one dominant score, all scores equal", arguments: Variant.all, [1, 24])
    func extremes(variant: Variant, count: Int) throws {
        let plain = AttentionCase(
            format: variant.format, count: count, length: 130, kernels: variant.kernels)
        var large = plain
        large.scoreLimit = 1e4
        try large.check(large.inputs())

        var dominant = plain.inputs()
        let row = plain.kvHeads * plain.keyDim
        for index in dominant.queries.indices { dominant.queries[index] = abs(dominant.queries[index]) + 1 }
        for index in 77 * row..<78 * row { dominant.keys[index] = 12 }
        try plain.check(dominant)

        var equal = plain.inputs()
        for index in equal.keys.indices { equal.keys[index] = 0 }
        try plain.check(equal)
        #expect(try plain.states(equal).lse.allSatisfy { abs(Double($0) - 4.867_534_450_455_582) < 1e-6 })
    }
}
