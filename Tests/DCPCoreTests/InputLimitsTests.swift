// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPTestKit
import Testing

@Suite("input limits")
struct InputLimitsTests {
    private func limits(_ keyDim: Int, scale: Float, _ format: CacheFormat) throws -> InputLimits {
        InputLimits(
            try LayerAttention(queryHeads: 4, kvHeads: 2, keyDim: keyDim, values: .own(8), scale: scale),
            kvFormat: format)
    }

    @Test("the largest query and key, multiplied and scaled, stay below 2^126", arguments: CacheFormat.allCases)
    func products(format: CacheFormat) throws {
        for keyDim in [8, 10, 64, 100, 128, 254, 256, 576] {
            for scale: Float in [.leastNonzeroMagnitude, 1e-30, 0.125, 1, 1.5, 3e10, .greatestFiniteMagnitude] {
                let limits = try limits(keyDim, scale: scale, format)
                let product = Double(keyDim) * Double(limits.query) * Double(limits.key)
                #expect(product * max(1, Double(scale)) <= 0x1p126, "Dk \(keyDim), scale \(scale)")
                // No tighter than it has to be.
                if format != .float16 { #expect(product * max(1, Double(scale)) >= 0x1p122) }
            }
        }
    }

    @Test("the first number beyond a limit is found wherever it is, of all bits", arguments: DataType.allCases)
    func found(dataType: DataType) {
        var generator = SeededGenerator.ofRun(salt: 32)
        let limits: [Float] = [1, 1.5, 65504, 65520, 0x1p60, 0x1.FEp127, .greatestFiniteMagnitude, 1e-3]
        for round in 0..<400 {
            let limit = limits[round % limits.count]
            let count = Int.random(in: 0..<2000, using: &generator)
            var bytes = (0..<count * dataType.byteCount).map { _ in UInt8.random(in: 0...255, using: &generator) }
            if round % 2 == 0 {
                // Few are beyond it: the high byte of most has a small exponent.
                for index in 0..<count where Int.random(in: 0..<500, using: &generator) > 0 {
                    bytes[(index + 1) * dataType.byteCount - 1] &= 0x8F
                }
            }
            bytes.withUnsafeBytes { bytes in
                let expected = (0..<count).first { !(dataType.float(at: $0, of: bytes).magnitude <= limit) }
                #expect(
                    dataType.firstBeyond(limit, in: bytes) == expected,
                    "\(dataType.name), limit \(limit), \(count); DCP_SEED=\(SeededGenerator.seed)")
            }
        }
    }

    @Test(
        "values that round to a finite number of the dtype are allowed, the next one is not",
        arguments: DataType.allCases)
    func rounding(dataType: DataType) {
        let largest = dataType.inputMagnitudeMax
        #expect(Rounding.rounded([largest, -largest], to: dataType).allSatisfy { $0.isFinite })
        if dataType != .float32 { #expect(Rounding.rounded([largest.nextUp], to: dataType)[0] == .infinity) }
    }

    @Test("an error names the tensor, the place, the number, the limit and why")
    func errors() throws {
        let limits = try limits(64, scale: 0.125, .float16)
        var rows = [Float](repeating: 1, count: 2 * 3 * 64)
        rows[(1 * 3 + 2) * 64 + 5] = -1e19
        func message(_ tensor: InputLimits.Tensor) -> String {
            do throws(ServiceError) {
                let result = rows.withUnsafeBytes { bytes in
                    Result { () throws(ServiceError) in
                        try limits.check(tensor, bytes, dataType: .float32, firstHead: 4, tokens: 3, dim: 64)
                    }
                }
                try result.get()
            } catch {
                #expect(error.code == .invalidRequest)
                return error.message
            }
            return ""
        }
        let query = message(.query), key = message(.key)
        for part in ["query of token 2", "head 5", "-1e+19", "\(limits.query)", "overflows Float32"] {
            #expect(query.contains(part), "\(query)")
        }
        for part in ["key of token 2", "KV head 5", "65519.996", "overflows a KV cache of f16"] {
            #expect(key.contains(part), "\(key)")
        }
        rows[0] = .nan
        #expect(message(.value).contains("value of token 0 of the step, KV head 4, is NaN"))
    }
}
