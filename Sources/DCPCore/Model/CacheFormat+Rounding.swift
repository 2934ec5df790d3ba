// SPDX-License-Identifier: Apache-2.0

/// What rows become in a cache, apart from the kernels that write them: to compare a file with a cache, and for oracles.
extension CacheFormat {
    /// No scale is smaller.
    private static let scaleMin: Float = 0x1p-60

    /// Rows as a cache of this format gives them back, in its `rowType` as Float32: the same bits.
    /// - Parameters:
    ///   - rows: `[rows][dim]`, finite.
    ///   - areKeys: and not values; keys of `int8` are rotated.
    public func rounded(_ rows: [Float], dim: Int, areKeys: Bool) -> [Float] {
        switch self {
        case .float32: return rows
        case .float16: return rows.map { Float(Float16($0)) }
        case .bfloat16:
            return rows.map {
                let bits = $0.bitPattern
                return Float(bitPattern: (bits &+ 0x7fff &+ (bits >> 16 & 1)) & 0xffff_0000)
            }
        case .int8, .fp8:
            var rounded: [Float] = []
            rounded.reserveCapacity(rows.count)
            for first in stride(from: 0, to: rows.count, by: max(dim, 1)) {
                let row = Array(rows[first..<first + dim])
                rounded += self == .fp8 ? Self.e4m3(row) : Self.int8(row, isKey: areKeys)
            }
            return rounded
        }
    }

    private static func magnitude(_ row: [Float]) -> Float { row.reduce(0) { max($0, abs($1)) } }

    private static func int8(_ row: [Float], isKey: Bool) -> [Float] {
        let row = isKey ? Rotation.rotated(row) : row
        let scale = largestScale(row, 127, max: 0x1.02p121)
        let inverse = 1 / scale
        // A number of bytes has no negative zero.
        let numbers = row.map { (min(max(($0 * inverse).rounded(.toNearestOrEven), -127), 127) + 0) * scale }
        return isKey ? Rotation.unrotated(numbers) : numbers
    }

    /// The largest number over that of the format, in 12 bits.
    private static func largestScale(_ row: [Float], _ largest: Float, max high: Float) -> Float {
        let bits = (magnitude(row) / largest).bitPattern
        return min(max(Float(bitPattern: (bits &+ 0x800) & 0xffff_f000), scaleMin), high)
    }

    private static func e4m3(_ row: [Float]) -> [Float] {
        let most = magnitude(row)
        // The smallest power of two of which the largest number is at most 448 times, once rounded.
        var power: Float = 0x1p119
        while power > scaleMin, most <= 464 * (power / 2) { power /= 2 }
        let exact = e4m3(row, scale: power)
        return exact == row ? exact : e4m3(row, scale: largestScale(row, 448, max: 0x1.248p119))
    }

    private static func e4m3(_ row: [Float], scale: Float) -> [Float] {
        let inverse = 1 / scale
        return row.map {
            let number = abs($0 * inverse)
            // Three bits behind the first one; below 2^-6 multiples of 2^-9.
            let step = number < 0x1p-6 ? 0x1p-9 : Float(sign: .plus, exponent: number.exponent - 3, significand: 1)
            let nearest = min((number / step).rounded(.toNearestOrEven) * step, 448)
            return Float(signOf: $0, magnitudeOf: nearest * scale)
        }
    }
}

/// What keys of `int8` go through: signs, and a Walsh-Hadamard transform of the first 2^k dimensions, and where there are more
/// another of the last 2^k. In the order of the kernels, so that the bits are theirs.
private enum Rotation {
    private static let signs: [UInt32] = [
        0x05FD_F179, 0x6CC6_BE18, 0xAC05_04A5, 0x4BA7_1AB7, 0x2839_8F9F, 0xDAE8_5D09,
        0xF646_6D5F, 0x0B8E_90E9, 0x6510_11CB, 0x4E69_80EE, 0xB822_B63B, 0xC4E0_8E67,
        0xD47A_9A78, 0x28B5_8AB4, 0x31BF_A6AF, 0xA02B_FF2F, 0x06D0_02DB, 0x1414_F6B5,
    ]

    private static func size(_ dim: Int) -> Int { 1 << (Int.bitWidth - 1 - dim.leadingZeroBitCount) }

    private static func flipSigns(_ row: inout [Float]) {
        for dim in row.indices where signs[dim / 32] >> UInt32(dim % 32) & 1 == 1 { row[dim].negate() }
    }

    private static func transform(_ row: inout [Float], _ range: Range<Int>) {
        var numbers = Array(row[range])
        let half = numbers.count / 2, levels = numbers.count.trailingZeroBitCount
        for _ in 0..<levels {
            let before = numbers
            for i in 0..<half {
                numbers[i] = before[2 * i] + before[2 * i + 1]
                numbers[i + half] = before[2 * i] - before[2 * i + 1]
            }
        }
        let unit = (levels % 2 == 1 ? Float(0.5).squareRoot() : 1) / Float(1 << (levels / 2))
        row.replaceSubrange(range, with: numbers.map { $0 * unit })
    }

    static func rotated(_ row: [Float]) -> [Float] {
        var row = row
        let size = size(row.count)
        flipSigns(&row)
        transform(&row, 0..<size)
        if size < row.count { transform(&row, row.count - size..<row.count) }
        return row
    }

    static func unrotated(_ row: [Float]) -> [Float] {
        var row = row
        let size = size(row.count)
        if size < row.count { transform(&row, row.count - size..<row.count) }
        transform(&row, 0..<size)
        flipSigns(&row)
        return row
    }
}
