// SPDX-License-Identifier: Apache-2.0

import CAttentionKernels
import DCPCore
import DCPTestKit
import Testing

@Suite("queries as sums of bf16")
struct QueryTermTests {
    private func split(_ values: [Float]) -> (terms: [[Float]], count: Int) {
        var bits = [UInt16](repeating: 0xFFFF, count: 3 * values.count)
        let count = dcp_split_queries(values, Int64(values.count), &bits, Int64(values.count))
        let floats = bits.map { Float(bitPattern: UInt32($0) << 16) }
        return ((0..<3).map { Array(floats[$0 * values.count..<($0 + 1) * values.count]) }, Int(count))
    }

    @Test("three terms give every Float32 exactly, of any magnitude")
    func exact() {
        var generator = SeededGenerator.ofRun(salt: 31)
        var values: [Float] = [0, -0.0, 1, -1, .greatestFiniteMagnitude, -.greatestFiniteMagnitude, 1.000_000_1, 3e-30]
        for exponent in -60...120 {
            values += generator.floats(8, limit: 1).map { $0 * Float(sign: .plus, exponent: exponent, significand: 1) }
        }
        let (terms, count) = split(values)
        #expect(count == 3)
        for (index, value) in values.enumerated() {
            #expect(terms[0][index] + (terms[1][index] + terms[2][index]) == value)
        }
    }

    @Test("queries that came as bf16 need one term, as f16 two; the terms left out are 0")
    func fewer() {
        var generator = SeededGenerator.ofRun(salt: 32)
        let values = generator.floats(64, limit: 4)
        for (type, expected) in [
            (Rounding.rounded(values, to: .bfloat16), 1), (Rounding.rounded(values, to: .float16), 2),
        ] {
            let (terms, count) = split(type)
            #expect(count == expected)
            #expect(terms[expected...].allSatisfy { $0.allSatisfy { $0 == 0 } })
        }
        #expect(split([0, 0]).count == 1)
    }
}
