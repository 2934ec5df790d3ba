// SPDX-License-Identifier: Apache-2.0

/// Rows as a cache of bytes keeps them: a byte for each number, and a scale for each row.
///
/// Made here apart from the kernels, by arithmetic on Float32, for files and for oracles. A test compares the two bit by
/// bit.
public struct ScaledRows: Hashable, Sendable {
    /// `[rows][dim]`: two's complement of `int8`, e4m3 of `fp8`.
    public var bytes: [UInt8]
    /// `[rows]`: what a row's numbers are multiplied by.
    public var scales: [Float]

    public init(bytes: [UInt8], scales: [Float]) {
        self.bytes = bytes
        self.scales = scales
    }
}

extension CacheFormat {
    /// No scale is smaller.
    private static let scaleMin: Float = 0x1p-60

    /// Rows in the form in which a cache of this format keeps them.
    /// - Precondition: the format has scales.
    /// - Parameters:
    ///   - rows: `[rows][dim]`, finite.
    ///   - dim: the dimensions of a row.
    ///   - areKeys: and not values; keys of `int8` are rotated.
    public func scaled(_ rows: [Float], dim: Int, areKeys: Bool) -> ScaledRows {
        precondition(hasScales, "a cache of \(name) has no scales")
        guard dim > 0 else { return ScaledRows(bytes: [], scales: []) }
        let count = rows.count / dim
        var made = ScaledRows(
            bytes: [UInt8](repeating: 0, count: rows.count), scales: [Float](repeating: 0, count: count))
        var rotation = Rotation(dim: dim)
        var row = [Float](repeating: 0, count: dim)
        for index in 0..<count {
            let first = index * dim
            for d in 0..<dim { row[d] = rows[first + d] }
            if self == .int8 {
                if areKeys { rotation.apply(&row) }
                made.scales[index] = Self.int8(row, into: &made.bytes, at: first)
            } else {
                made.scales[index] = Self.e4m3(row, into: &made.bytes, at: first)
            }
        }
        return made
    }

    /// The numbers of such rows, as a cache gives them back.
    /// - Parameters:
    ///   - scaled: rows as `scaled(_:dim:areKeys:)` makes them.
    ///   - dim: the dimensions of a row.
    ///   - areRotated: that is keys of `int8`, as a cache keeps them.
    /// - Returns: `[rows][dim]`; NaN for a byte of `fp8` that e4m3 has for NaN, which no cache keeps.
    public func numbers(_ scaled: ScaledRows, dim: Int, areRotated: Bool) -> [Float] {
        precondition(hasScales, "a cache of \(name) has no scales")
        var numbers = [Float](repeating: 0, count: scaled.bytes.count)
        var rotation = Rotation(dim: max(dim, 1))
        var row = [Float](repeating: 0, count: dim)
        for (index, scale) in scaled.scales.enumerated() {
            let first = index * dim
            for d in 0..<dim {
                let byte = scaled.bytes[first + d]
                row[d] = (self == .int8 ? Float(Int8(bitPattern: byte)) : Self.e4m3Numbers[Int(byte)]) * scale
            }
            if self == .int8, areRotated { rotation.undo(&row) }
            for d in 0..<dim { numbers[first + d] = row[d] }
        }
        return numbers
    }

    /// To nearest, ties to even, for numbers far below 2^22: the sum has no bits for a fraction.
    private static func nearest(_ number: Float) -> Float { (number + 0x1.8p23) - 0x1.8p23 }

    private static func magnitude(_ row: [Float]) -> Float {
        var most: Float = 0
        for number in row { most = max(most, abs(number)) }
        return most
    }

    /// The largest number over that of the format, in 12 bits.
    private static func largestScale(_ most: Float, _ largest: Float, max high: Float) -> Float {
        let bits = (most / largest).bitPattern
        return min(max(Float(bitPattern: (bits &+ 0x800) & 0xffff_f000), scaleMin), high)
    }

    private static func int8(_ row: [Float], into bytes: inout [UInt8], at first: Int) -> Float {
        let scale = largestScale(magnitude(row), 127, max: 0x1.02p121)
        let inverse = 1 / scale
        for (d, number) in row.enumerated() {
            bytes[first + d] = UInt8(bitPattern: Int8(min(max(nearest(number * inverse), -127), 127)))
        }
        return scale
    }

    private static func e4m3(_ row: [Float], into bytes: inout [UInt8], at first: Int) -> Float {
        let most = magnitude(row)
        let power = powerScale(most)
        e4m3(row, power, into: &bytes, at: first)
        if row.indices.allSatisfy({ e4m3Numbers[Int(bytes[first + $0])] * power == row[$0] }) { return power }
        let scale = largestScale(most, 448, max: 0x1.248p119)
        e4m3(row, scale, into: &bytes, at: first)
        return scale
    }

    /// The smallest power of two of which the largest number is at most 448 times, once rounded.
    private static func powerScale(_ most: Float) -> Float {
        guard most > 464 * (scaleMin / 2) else { return scaleMin }
        let below = Float(sign: .plus, exponent: Int(most.exponent) - 8, significand: 1)
        return min(max(most <= 464 * below ? below : 2 * below, scaleMin), 0x1p119)
    }

    private static func e4m3(_ row: [Float], _ scale: Float, into bytes: inout [UInt8], at first: Int) {
        let inverse = 1 / scale
        for (d, number) in row.enumerated() {
            let scaled = abs(number * inverse)
            // Three bits behind the first one; below 2^-6 multiples of 2^-9, which go on as the codes above do.
            let exponent = max(scaled.bitPattern >> 23, 121)
            let units = UInt32(nearest(scaled / Float(bitPattern: (exponent - 3) << 23)))
            let code = UInt8(min((exponent - 121) * 8 + units, 0x7e))
            bytes[first + d] = number.sign == .minus ? code | 0x80 : code
        }
    }

    /// By their codes.
    private static let e4m3Numbers: [Float] = (0..<256).map { code in
        let (exponent, mantissa) = (code >> 3 & 15, code & 7)
        if code & 0x7f == 0x7f { return .nan }
        let magnitude =
            exponent == 0
            ? Float(mantissa) * 0x1p-9
            : Float(sign: .plus, exponent: exponent - 10, significand: Float(8 + mantissa))
        return code < 128 ? magnitude : -magnitude
    }
}

/// What keys of `int8` go through: signs, and a Walsh-Hadamard transform of the first 2^k dimensions, and where there are
/// more another of the last 2^k. In the order of the kernels, so that the bits are theirs.
private struct Rotation {
    private static let signs: [UInt32] = [
        0x05FD_F179, 0x6CC6_BE18, 0xAC05_04A5, 0x4BA7_1AB7, 0x2839_8F9F, 0xDAE8_5D09,
        0xF646_6D5F, 0x0B8E_90E9, 0x6510_11CB, 0x4E69_80EE, 0xB822_B63B, 0xC4E0_8E67,
        0xD47A_9A78, 0x28B5_8AB4, 0x31BF_A6AF, 0xA02B_FF2F, 0x06D0_02DB, 0x1414_F6B5,
    ]

    private let dim: Int
    /// 2^k.
    private let size: Int
    private var sums: [Float]

    init(dim: Int) {
        self.dim = dim
        size = 1 << (Int.bitWidth - 1 - dim.leadingZeroBitCount)
        sums = [Float](repeating: 0, count: size)
    }

    mutating func apply(_ row: inout [Float]) {
        flipSigns(&row)
        transform(&row, from: 0)
        if size < dim { transform(&row, from: dim - size) }
    }

    mutating func undo(_ row: inout [Float]) {
        if size < dim { transform(&row, from: dim - size) }
        transform(&row, from: 0)
        flipSigns(&row)
    }

    private func flipSigns(_ row: inout [Float]) {
        for d in 0..<dim where Self.signs[d / 32] >> UInt32(d % 32) & 1 == 1 { row[d].negate() }
    }

    private mutating func transform(_ row: inout [Float], from first: Int) {
        let half = size / 2, levels = size.trailingZeroBitCount
        for _ in 0..<levels {
            for i in 0..<half {
                let (a, b) = (row[first + 2 * i], row[first + 2 * i + 1])
                sums[i] = a + b
                sums[i + half] = a - b
            }
            for i in 0..<size { row[first + i] = sums[i] }
        }
        let unit = (levels % 2 == 1 ? Float(0.5).squareRoot() : 1) / Float(1 << (levels / 2))
        for i in 0..<size { row[first + i] *= unit }
    }
}
