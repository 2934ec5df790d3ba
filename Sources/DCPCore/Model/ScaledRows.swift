// SPDX-License-Identifier: Apache-2.0

/// Rows as a cache of bytes keeps them: a byte for each number, a scale for each row, and for some keys of `int8` a word.
///
/// Made here apart from the kernels, by arithmetic on Float32, for files and for oracles. A test compares the two bit by
/// bit.
public struct ScaledRows: Hashable, Sendable {
    /// `[rows][dim]`: two's complement of `int8`, e4m3 of `fp8`.
    public var bytes: [UInt8]
    /// `[rows]`: what a row's numbers are multiplied by.
    public var scales: [Float]
    /// `[rows]`: see ``WordApart``; empty where rows have none, as all but keys of `int8`.
    public var words: [UInt32]

    public init(bytes: [UInt8], scales: [Float], words: [UInt32] = []) {
        self.bytes = bytes
        self.scales = scales
        self.words = words
    }
}

extension CacheFormat {
    /// No scale is smaller.
    static let scaleMin: Float = 0x1p-60

    /// Rows in the form in which a cache of this format keeps them.
    /// - Precondition: the format has scales.
    /// - Parameters:
    ///   - rows: `[rows][dim]`, finite.
    ///   - dim: the dimensions of a row.
    ///   - areKeys: and not values; keys of `int8` are rotated, and have words.
    public func scaled(_ rows: [Float], dim: Int, areKeys: Bool) -> ScaledRows {
        precondition(hasScales, "a cache of \(name) has no scales")
        guard dim > 0 else { return ScaledRows(bytes: [], scales: []) }
        let count = rows.count / dim
        var made = ScaledRows(
            bytes: [UInt8](repeating: 0, count: rows.count), scales: [Float](repeating: 0, count: count),
            words: [UInt32](repeating: 0, count: hasWords && areKeys ? count : 0))
        var rotation = Rotation(dim: dim)
        var row = [Float](repeating: 0, count: dim)
        for index in 0..<count {
            let first = index * dim
            for d in 0..<dim { row[d] = rows[first + d] }
            if self == .int8, areKeys {
                let key = Self.key(row, &rotation)
                for d in 0..<dim { made.bytes[first + d] = UInt8(bitPattern: key.bytes[d]) }
                made.scales[index] = key.scale
                made.words[index] = key.word
            } else if self == .int8 {
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
    ///   - areRotated: that is keys of `int8`, as a cache keeps them; words are not.
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
            if !scaled.words.isEmpty { WordApart.add(scaled.words[index], to: &row) }
            for d in 0..<dim { numbers[first + d] = row[d] }
        }
        return numbers
    }

    /// To nearest, ties to even, for numbers far below 2^22: the sum has no bits for a fraction.
    private static func nearest(_ number: Float) -> Float { (number + 0x1.8p23) - 0x1.8p23 }

    static func magnitude(_ row: [Float]) -> Float {
        var most: Float = 0
        for number in row { most = max(most, abs(number)) }
        return most
    }

    /// The largest number over that of the format, in 12 bits.
    private static func largestScale(_ most: Float, _ largest: Float, max high: Float) -> Float {
        let bits = (most / largest).bitPattern
        return min(max(Float(bitPattern: (bits &+ 0x800) & 0xffff_f000), scaleMin), high)
    }

    static func int8(_ row: [Float], into bytes: inout [UInt8], at first: Int) -> Float {
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
