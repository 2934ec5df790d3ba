// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCore
import DCPTestKit
import Foundation
import Testing

@Suite("conversions")
struct ConversionTests {
    @Test("from bf16 and f16: all 65536 patterns are exact, NaN and those beyond the limit are refused")
    func toFloat() throws {
        let limits = InputLimits(
            try LayerAttention(queryHeads: 1, kvHeads: 1, keyDim: 8, values: .own(8), scale: 1), kvFormat: .bfloat16)
        func convert(_ bits: UInt16, _ type: DataType) -> Float? {
            var rows = QueryRows(heads: 0..<1, tokens: 1, keyDim: 1)
            return withUnsafeBytes(of: bits) { bytes in
                guard let base = bytes.baseAddress else { return nil }
                do throws(ServiceError) {
                    try rows.set(heads: 0..<1, dataType: type, rows: base, limits: limits)
                } catch { return nil }
                return rows.values[0]
            }
        }
        for bits in UInt16.min...UInt16.max {
            let half = Float(Float16(bitPattern: bits))
            let brain = Rounding.float(bfloat16Bits: bits)
            #expect(convert(bits, .float16)?.bitPattern == (half.magnitude <= limits.query ? half.bitPattern : nil))
            #expect(convert(bits, .bfloat16)?.bitPattern == (brain.magnitude <= limits.query ? brain.bitPattern : nil))
        }
    }

    /// Rounds through the panels: values as keys of one token, read back as patterns.
    private func patterns(_ values: [Float], _ type: CacheFormat) -> (bits: [UInt16], isFinite: Bool) {
        let dim = 256
        let layout = PanelLayout(format: type, kvHeads: 1, keyDim: dim, valueDim: 2, blockTokens: 16)
        let tokens = (values.count + dim - 1) / dim
        let padded = values + [Float](repeating: 0, count: tokens * dim - values.count)
        let zeros = [Float](repeating: 0, count: tokens * 2)
        var bits: [UInt16] = []
        var isFinite = true
        let payload = UnsafeMutableRawPointer.allocate(byteCount: layout.payloadByteCount, alignment: 64)
        defer { payload.deallocate() }
        padded.withUnsafeBytes { keys in
            zeros.withUnsafeBytes { values in
                guard let keys = keys.baseAddress, let values = values.baseAddress else { return }
                let rows = KeyValueRows(dataType: .float32, keys: keys, values: values, tokens: tokens)
                for token in 0..<tokens {
                    isFinite = layout.write(rows, rowTokens: [UInt32(token)], into: payload, at: token % 16) && isFinite
                    var row = [UInt16](repeating: 0, count: layout.rowByteCount / 2)
                    row.withUnsafeMutableBytes { row in
                        if let base = row.baseAddress { layout.read(token: token % 16, of: payload, into: base) }
                    }
                    bits += row[..<dim]
                }
            }
        }
        return (Array(bits[..<values.count]), isFinite)
    }

    @Test("to bf16 and f16: every tie goes to even, and one step beside it to the nearer")
    func toHalf() {
        for type in [CacheFormat.bfloat16, .float16] {
            let finite: [Float] = (UInt16.min...UInt16.max).map { bits in
                type == .float16 ? Float(Float16(bitPattern: bits)) : Rounding.float(bfloat16Bits: bits)
            }.filter(\.isFinite)
            var values = finite
            for (a, b) in zip(finite, finite.dropFirst()) where a.sign == b.sign {
                let tie = Float((Double(a) + Double(b)) / 2)
                values += [tie, tie.nextUp, tie.nextDown]
            }
            let rounded = patterns(values, type)
            let wrong = zip(values, rounded.bits).filter { value, bits in
                bits != (type == .float16 ? Float16(value).bitPattern : Rounding.bfloat16Bits(value))
            }
            #expect(rounded.isFinite && wrong.isEmpty, "\(type.name): \(wrong.prefix(5))")
        }
    }

    @Test("values that the cache format cannot hold are reported")
    func notFinite() {
        for type in CacheFormat.ofRows {
            for value in [Float.nan, .infinity, -.infinity] { #expect(!patterns([1, value, 2], type).isFinite) }
        }
        #expect(!patterns([65520], .float16).isFinite)
        #expect(patterns([65519.996], .float16).isFinite)
        #expect(!patterns([.greatestFiniteMagnitude], .bfloat16).isFinite)
        #expect(patterns([.greatestFiniteMagnitude], .float32).isFinite)
    }

    @Test("panels: what is written is read back, for all dtypes, and written again from what was read")
    func roundTrip() throws {
        for type in CacheFormat.ofRows {
            for source in DataType.allCases {
                let layout = PanelLayout(format: type, kvHeads: 3, keyDim: 10, valueDim: 8, blockTokens: 48)
                var generator = SeededGenerator.ofRun(salt: 9)
                let tokens = 60
                let keys = Rounding.rounded(generator.floats(3 * tokens * 10), to: source)
                let values = Rounding.rounded(generator.floats(3 * tokens * 8), to: source)
                let payload = UnsafeMutableRawPointer.allocate(byteCount: layout.payloadByteCount, alignment: 64)
                let copy = UnsafeMutableRawPointer.allocate(byteCount: layout.payloadByteCount, alignment: 64)
                defer {
                    payload.deallocate()
                    copy.deallocate()
                }
                let order = (0..<48).map { UInt32(($0 * 7) % tokens) }
                // One byte in, so that rows are unaligned as frames leave them.
                ([0] + Rounding.bytes(keys, as: source)).withUnsafeBytes { keys in
                    ([0] + Rounding.bytes(values, as: source)).withUnsafeBytes { values in
                        guard let keys = keys.baseAddress, let values = values.baseAddress else { return }
                        let rows = KeyValueRows(dataType: source, keys: keys + 1, values: values + 1, tokens: tokens)
                        #expect(layout.write(rows, rowTokens: Array(order[..<5]), into: payload, at: 0))
                        #expect(layout.write(rows, rowTokens: Array(order[5...]), into: payload, at: 5))
                    }
                }
                var row = [UInt8](repeating: 0, count: layout.rowByteCount)
                for token in 0..<48 {
                    let from = Int(order[token])
                    var expected: [Float] = []
                    for head in stride(from: from, to: 3 * tokens, by: tokens) {
                        expected += keys[head * 10..<(head + 1) * 10]
                    }
                    for head in stride(from: from, to: 3 * tokens, by: tokens) {
                        expected += values[head * 8..<(head + 1) * 8]
                    }
                    row.withUnsafeMutableBytes { row in
                        guard let base = row.baseAddress else { return }
                        layout.read(token: token, of: payload, into: base)
                        layout.put(base, into: copy, at: token..<token + 1)
                    }
                    #expect(row == Rounding.bytes(Rounding.rounded(expected, to: type.rowType), as: type.rowType))
                }
                #expect(memcmp(payload, copy, layout.payloadByteCount) == 0)
            }
        }
    }

    @Test("exp: 2 ulp over [-88, 0], 1 at 0, 0 far below and at -inf, NaN stays")
    func exponential() {
        let steps = 400_000
        let values = (0...steps).map { -88 * Float($0) / Float(steps) }
        var worst = 0.0
        for (value, result) in zip(values, PointwiseFunctions.exp(values)) {
            let exact = exp(Double(value))
            worst = max(worst, abs(Double(result) - exact) / Double(Float(exact).ulp))
        }
        #expect(worst <= 2, "\(worst) ulp")
        let special = PointwiseFunctions.exp([0, -0.0, -88.01, -1e4, -3e38, -.infinity, .nan])
        #expect(special[0] == 1 && special[1] == 1 && special[2...5].allSatisfy { $0 == 0 } && special[6].isNaN)
    }

    @Test("tanh: 4 ulp over [-20, 20] and at the seam of its two forms")
    func hyperbolicTangent() {
        let values = (-200_000...200_000).map { Float($0) / 10_000 } + [0.625, Float(0.625).nextDown, -0.625, 1e30]
        var worst = 0.0
        for (value, result) in zip(values, PointwiseFunctions.tanh(values)) {
            let exact = tanh(Double(value))
            worst = max(worst, abs(Double(result) - exact) / Double(Float(exact).ulp))
        }
        #expect(worst <= 4, "\(worst) ulp")
    }
}
