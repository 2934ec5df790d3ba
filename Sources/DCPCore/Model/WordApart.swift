// SPDX-License-Identifier: Apache-2.0

/// The word in which a key of `int8` keeps the number of a dimension that stands out. 0 is none; otherwise it is the number
/// as a Float32, in whose lowest 10 bits the dimension stands.
public enum WordApart {
    private static let dimMask: UInt32 = 0x3ff

    /// The dimension that a word names.
    public static func dim(_ word: UInt32) -> Int { Int(word & dimMask) }
    /// The number that it adds.
    public static func value(_ word: UInt32) -> Float { Float(bitPattern: word & ~dimMask) }

    /// Adds what a word keeps to a row that is not rotated. A word that names no dimension of the row adds nothing.
    static func add(_ word: UInt32, to row: inout [Float]) {
        if word != 0, dim(word) < row.count { row[dim(word)] += value(word) }
    }

    /// A number's first 6 bits, the part that a word keeps.
    static func part(_ number: Float) -> Float {
        Float(bitPattern: (number.bitPattern &+ 0x2_0000) & 0xfffc_0000)
    }
}

/// What keys of `int8` become, as the kernels' `apart.h` has it.
extension CacheFormat {
    struct Key: Equatable {
        /// Rotated.
        var bytes: [Int8]
        var scale: Float
        var word: UInt32
    }

    /// A key in a form that becomes itself when it is read back and converted again.
    static func key(_ row: [Float], _ rotation: inout Rotation) -> Key {
        var key = keyOnce(row, &rotation)
        if key.word == 0 { return key }
        for _ in 0..<8 where key.word != 0 {
            let again = keyOnce(numbers(key, &rotation), &rotation)
            if again == key { return key }
            key = again
        }
        return withoutWord(row, &rotation).key
    }

    private static func numbers(_ key: Key, _ rotation: inout Rotation) -> [Float] {
        var row = key.bytes.map { Float($0) * key.scale }
        rotation.undo(&row)
        WordApart.add(key.word, to: &row)
        return row
    }

    private static func withoutWord(_ row: [Float], _ rotation: inout Rotation) -> (key: Key, rotated: [Float]) {
        var rotated = row
        rotation.apply(&rotated)
        var bytes = [UInt8](repeating: 0, count: row.count)
        let scale = int8(rotated, into: &bytes, at: 0)
        return (Key(bytes: bytes.map { Int8(bitPattern: $0) }, scale: scale, word: 0), rotated)
    }

    /// With a word if that makes the largest rotated number less than 3/4 of what it was. A row on the grid of its scale
    /// was read back, and had none.
    private static func keyOnce(_ row: [Float], _ rotation: inout Rotation) -> Key {
        let (plain, rotated) = withoutWord(row, &rotation)
        let most = magnitude(rotated), largest = magnitude(row)
        if rotation.size == rotation.dim, !(largest * rotation.unit > 0.25 * most) { return plain }
        let inverse = 1 / plain.scale
        let isOnGrid = zip(rotated, plain.bytes).allSatisfy { abs($0 * inverse - Float($1)) < 0x1p-6 }
        guard plain.scale > 2 * scaleMin, !isOnGrid, let dim = row.firstIndex(where: { abs($0) == largest }) else {
            return plain
        }
        let part = WordApart.part(row[dim])
        var rest = row
        rest[dim] -= part
        var apart = withoutWord(rest, &rotation)
        guard magnitude(apart.rotated) < 0.75 * most else { return plain }
        apart.key.word = part.bitPattern | UInt32(dim)
        return apart.key
    }
}
