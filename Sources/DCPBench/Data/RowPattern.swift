internal import DCPCore
internal import DCPTestKit

/// Keys, values and queries that are cheap to make: seeded numbers, uniform in -1...1, of which every row is a window.
///
/// The windows of one head begin at different places for 262144 positions in a row, so a transposed or shifted row is
/// never right by chance.
struct RowPattern {
    let dataType: DataType
    /// `places + dimMax` numbers of `dataType`.
    private let bytes: [UInt8]

    private static let places = 1 << 18

    init(seed: UInt64, dataType: DataType) {
        self.dataType = dataType
        var random = SeededGenerator(seed: seed)
        bytes = Rounding.bytes(random.floats(Self.places + ModelShape.headDims.upperBound), as: dataType)
    }

    /// Writes rows of consecutive positions.
    /// - Parameters:
    ///   - tensor: 0 for keys, 1 for values.
    ///   - rows: `[heads][positions][dim]` of `dataType`.
    func fill(
        tensor: Int, heads: Int, positions: Range<Int>, dim: Int, into rows: UnsafeMutableRawPointer
    ) {
        let rowByteCount = dim * dataType.byteCount
        bytes.withUnsafeBytes { bytes in
            guard let base = bytes.baseAddress else { return }
            var at = rows
            for head in 0..<heads {
                for position in positions {
                    // An odd factor is a permutation of the places.
                    let place = (position &* 0x9e37_79b1 &+ head &* 10007 &+ tensor &* 70001) & (Self.places - 1)
                    at.copyMemory(from: base + place * dataType.byteCount, byteCount: rowByteCount)
                    at += rowByteCount
                }
            }
        }
    }
}
