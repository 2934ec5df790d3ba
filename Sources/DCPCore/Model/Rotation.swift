// SPDX-License-Identifier: Apache-2.0

/// What keys of `int8` go through: signs, and a Walsh-Hadamard transform of the first 2^k dimensions, and where there are
/// more another of the last 2^k. In the order of the kernels, so that the bits are theirs.
struct Rotation {
    private static let signs: [UInt32] = [
        0x05FD_F179, 0x6CC6_BE18, 0xAC05_04A5, 0x4BA7_1AB7, 0x2839_8F9F, 0xDAE8_5D09,
        0xF646_6D5F, 0x0B8E_90E9, 0x6510_11CB, 0x4E69_80EE, 0xB822_B63B, 0xC4E0_8E67,
        0xD47A_9A78, 0x28B5_8AB4, 0x31BF_A6AF, 0xA02B_FF2F, 0x06D0_02DB, 0x1414_F6B5,
    ]

    let dim: Int
    /// 2^k.
    let size: Int
    private var sums: [Float]

    /// 1 / sqrt(size), what sums and differences of all levels are multiplied by.
    var unit: Float {
        let levels = size.trailingZeroBitCount
        return (levels % 2 == 1 ? Float(0.5).squareRoot() : 1) / Float(1 << (levels / 2))
    }

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
        let half = size / 2
        for _ in 0..<size.trailingZeroBitCount {
            for i in 0..<half {
                let (a, b) = (row[first + 2 * i], row[first + 2 * i + 1])
                sums[i] = a + b
                sums[i + half] = a - b
            }
            for i in 0..<size { row[first + i] = sums[i] }
        }
        for i in 0..<size { row[first + i] *= unit }
    }
}
