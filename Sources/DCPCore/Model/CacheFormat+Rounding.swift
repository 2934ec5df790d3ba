// SPDX-License-Identifier: Apache-2.0

/// What rows become in a cache, apart from the kernels that write them: to compare a file with a cache, and for oracles.
extension CacheFormat {
    /// Rows as a cache of this format gives them back, in its `rowType` as Float32: the same bits.
    /// - Parameters:
    ///   - rows: `[rows][dim]`, finite.
    ///   - dim: the dimensions of a row.
    ///   - areKeys: and not values; keys of `int8` are rotated.
    public func rounded(_ rows: [Float], dim: Int, areKeys: Bool) -> [Float] {
        guard !hasScales else {
            return numbers(scaled(rows, dim: dim, areKeys: areKeys), dim: dim, areRotated: areKeys)
        }
        return rowType.rounded(rows)
    }
}

extension DataType {
    /// Numbers rounded to this type, ties to even; infinite beyond the largest.
    public func rounded(_ numbers: [Float]) -> [Float] {
        switch self {
        case .float32: numbers
        case .float16: numbers.map { Float(Float16($0)) }
        case .bfloat16: numbers.map { Float(bitPattern: UInt32(Self.bfloat16Bits($0)) << 16) }
        }
    }

    /// The elements of little-endian bytes; exact.
    public func numbers(_ bytes: [UInt8]) -> [Float] {
        bytes.withUnsafeBytes { bytes in (0..<bytes.count / byteCount).map { float(at: $0, of: bytes) } }
    }

    /// Numbers, rounded to this type, as little-endian bytes.
    public func bytes(_ numbers: [Float]) -> [UInt8] {
        func bytes<Bits: FixedWidthInteger>(_ bits: (Float) -> Bits) -> [UInt8] {
            [UInt8](unsafeUninitializedCapacity: numbers.count * byteCount) { target, count in
                let target = UnsafeMutableRawBufferPointer(target)
                for (index, number) in numbers.enumerated() {
                    target.storeBytes(of: bits(number).littleEndian, toByteOffset: index * byteCount, as: Bits.self)
                }
                count = numbers.count * byteCount
            }
        }
        switch self {
        case .float32: return bytes(\.bitPattern)
        case .float16: return bytes { Float16($0).bitPattern }
        case .bfloat16: return bytes(Self.bfloat16Bits)
        }
    }

    /// Of a number that is not NaN.
    private static func bfloat16Bits(_ number: Float) -> UInt16 {
        let bits = number.bitPattern
        return UInt16(truncatingIfNeeded: (bits &+ 0x7fff &+ (bits >> 16 & 1)) >> 16)
    }
}
