// SPDX-License-Identifier: Apache-2.0

public import DCPCore

/// Rounding to a KV dtype, written independently of the kernels, for oracles.
public enum Rounding {
    /// The bf16 pattern nearest to a value, ties to even; by arithmetic on Float64, which holds all the candidates.
    public static func bfloat16Bits(_ value: Float) -> UInt16 {
        let truncated = UInt16(truncatingIfNeeded: value.bitPattern >> 16)
        guard value.isFinite else { return value.isNaN ? truncated | 0x40 : truncated }
        let below = Double(Float(bitPattern: UInt32(truncated) << 16))
        // One step away from zero; past the largest finite value the step is as if the range went on.
        let previous = truncated & 0x7fff == 0x7f7f ? truncated - 1 : truncated
        let step =
            Double(Float(bitPattern: UInt32(previous + 1) << 16)) - Double(Float(bitPattern: UInt32(previous) << 16))
        let rest = abs(Double(value) - below)
        let half = abs(step) / 2
        if rest < half || (rest == half && truncated % 2 == 0) { return truncated }
        return truncated + 1
    }

    public static func float(bfloat16Bits bits: UInt16) -> Float { Float(bitPattern: UInt32(bits) << 16) }

    /// The value that a KV cache of this dtype keeps.
    public static func rounded(_ value: Float, to type: DataType) -> Float {
        switch type {
        case .bfloat16: float(bfloat16Bits: bfloat16Bits(value))
        case .float16: Float(Float16(value))
        case .float32: value
        }
    }

    public static func rounded(_ values: [Float], to type: DataType) -> [Float] {
        values.map { rounded($0, to: type) }
    }

    /// Rows `[rows][dim]` as a KV cache of this format keeps them.
    public static func kept(_ rows: [Float], dim: Int, areKeys: Bool, _ format: CacheFormat) -> [Float] {
        format.hasScales ? format.rounded(rows, dim: dim, areKeys: areKeys) : rounded(rows, to: format.rowType)
    }

    /// The bytes of values in a dtype, as a step brings them.
    public static func bytes(_ values: [Float], as type: DataType) -> [UInt8] {
        switch type {
        case .bfloat16: values.flatMap { value in withUnsafeBytes(of: bfloat16Bits(value)) { [UInt8]($0) } }
        case .float16: values.flatMap { value in withUnsafeBytes(of: Float16(value)) { [UInt8]($0) } }
        case .float32: values.withUnsafeBytes { [UInt8]($0) }
        }
    }
}
