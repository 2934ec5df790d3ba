// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCore
internal import DCPOracle

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
        bytes = Rounding.bytes(random.floats(Self.places + LayerAttention.keyDims.upperBound), as: dataType)
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
                    let place = Self.place(tensor, head, position)
                    at.copyMemory(from: base + place * dataType.byteCount, byteCount: rowByteCount)
                    at += rowByteCount
                }
            }
        }
    }

    /// Where a row begins. An odd factor is a permutation of the places.
    private static func place(_ tensor: Int, _ head: Int, _ position: Int) -> Int {
        (position &* 0x9e37_79b1 &+ head &* 10007 &+ tensor &* 70001) & (places - 1)
    }

    /// The bytes that `PanelLayout.read` must give for a position.
    func stored(position: Int, as layout: PanelLayout) -> [UInt8] {
        var numbers: [Float] = []
        for (tensor, dim) in [layout.keyDim, layout.ownValueDim].enumerated() {
            for head in 0..<layout.kvHeads {
                let row = self.numbers(tensor: tensor, head: head, position..<position + 1, dim: dim)
                numbers += Rounding.kept(row, dim: dim, areKeys: tensor == 0, layout.format)
            }
        }
        return Rounding.bytes(numbers, as: layout.format.rowType)
    }

    /// Rows of one head as Float32, exact: `[positions][dim]`.
    func numbers(tensor: Int, head: Int, _ positions: Range<Int>, dim: Int) -> [Float] {
        positions.flatMap { position in
            let place = Self.place(tensor, head, position)
            return (place..<place + dim).map { number(at: $0) }
        }
    }

    /// Rows as a client sends them: `[positions][heads][dim]` of `dataType`.
    func tokenMajor(tensor: Int, heads: Int, positions: Range<Int>, dim: Int) -> [UInt8] {
        var rows: [UInt8] = []
        rows.reserveCapacity(positions.count * heads * dim * dataType.byteCount)
        for position in positions {
            for head in 0..<heads {
                let start = Self.place(tensor, head, position) * dataType.byteCount
                rows += bytes[start..<start + dim * dataType.byteCount]
            }
        }
        return rows
    }

    /// The bytes of the same rows as a cache of a format gives them back.
    func tokenMajorKept(
        tensor: Int, heads: Int, positions: Range<Int>, dim: Int, _ format: CacheFormat
    ) -> [UInt8] {
        let rows = positions.flatMap { position in
            (0..<heads).flatMap { numbers(tensor: tensor, head: $0, position..<position + 1, dim: dim) }
        }
        return Rounding.bytes(Rounding.kept(rows, dim: dim, areKeys: tensor == 0, format), as: format.rowType)
    }

    private func number(at index: Int) -> Float {
        bytes.withUnsafeBytes { bytes in
            switch dataType {
            case .float32: bytes.load(fromByteOffset: index * 4, as: Float.self)
            case .float16: Float(bytes.load(fromByteOffset: index * 2, as: Float16.self))
            case .bfloat16: Rounding.float(bfloat16Bits: bytes.load(fromByteOffset: index * 2, as: UInt16.self))
            }
        }
    }
}
