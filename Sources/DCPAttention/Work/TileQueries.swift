// SPDX-License-Identifier: Apache-2.0

internal import CAttentionKernels
internal import DCPCore

/// The queries of an entry in the form that its kernels read, tile by tile. They are made once for all pieces. If a
/// tile has one piece, the thread of that piece makes them: then threads share the work, and the queries of a tile are
/// in a cache.
///
/// `@unchecked Sendable`: one thread makes a tile, and threads that synchronise with it read the tile.
final class TileQueries: @unchecked Sendable {
    /// `[rows][Dk]`, Float32; nil if the kernels read terms.
    private let rows: UnsafeMutablePointer<Float>?
    /// `[rows][Dk]`, Float32, not rotated; nil if no key has a word.
    private let plain: UnsafeMutablePointer<Float>?
    /// For each tile `[3][rows][Dk]` in bf16, of which the tile's first terms are used; for int8 `[rows][3 Dk]` in the
    /// order of `dcp_byte_queries`.
    private let terms: UnsafeMutablePointer<UInt16>?
    /// The number of terms of each tile.
    private let termCounts: UnsafeMutablePointer<Int32>?
    /// The first row of each tile, and after the last the number of rows.
    private let firstRow: [Int]
    private let keyDim: Int
    private let format: CacheFormat

    /// The most bytes that rows of queries take, whichever kernels read them: three terms of a number, and for int8 also
    /// the number.
    static func byteCountMax(rows: Int, _ layout: PanelLayout) -> Int {
        rows * layout.keyDim * (layout.format.hasWords ? 10 : 6)
    }

    /// Space for some tiles.
    /// - Parameters:
    ///   - rows: the rows of each tile.
    ///   - format: the format of the keys; int8 keys are rotated, and so are their queries.
    ///   - asTerms: whether the kernels read queries as terms.
    init(rows tiles: [Int], keyDim: Int, format: CacheFormat, asTerms: Bool) {
        self.keyDim = keyDim
        self.format = format
        firstRow = tiles.reduce(into: [0]) { $0.append($0[$0.count - 1] + $1) }
        let count = firstRow[tiles.count]
        plain = format.hasWords ? .allocate(capacity: max(count * keyDim, 1)) : nil
        guard asTerms else {
            rows = .allocate(capacity: max(count * keyDim, 1))
            terms = nil
            termCounts = nil
            return
        }
        rows = nil
        terms = UnsafeMutableRawPointer.allocate(byteCount: max(count * keyDim * 3 * 2, 64), alignment: 64)
            .bindMemory(to: UInt16.self, capacity: count * keyDim * 3)
        termCounts = .allocate(capacity: max(tiles.count, 1))
        termCounts?.initialize(repeating: 1, count: tiles.count)
    }

    /// Makes rows of a tile before they are read: those of some heads and tokens, head by head.
    /// - Parameters:
    ///   - part: the heads and tokens.
    ///   - first: the index in the tile of the first row.
    ///   - queries: the step's queries, unscaled.
    ///   - tokens: the entry's tokens among the step's.
    func make(
        _ part: WorkSplit.Tile, at index: Int, from first: Int = 0, of queries: QueryRows, tokens: Range<Int>
    ) {
        let start = firstRow[index], count = part.tokens.count * keyDim
        let stride = (firstRow[index + 1] - start) * keyDim
        queries.values.withUnsafeBufferPointer { values in
            guard let base = values.baseAddress else { return }
            for (place, head) in part.heads.enumerated() {
                // A head's tokens are adjacent in the step's queries and in the tile.
                let token =
                    (head - queries.heads.lowerBound) * queries.tokens + tokens.lowerBound + part.tokens.lowerBound
                let source = base + token * keyDim
                let row = first + place * part.tokens.count
                if let plain { (plain + (start + row) * keyDim).update(from: source, count: count) }
                guard let terms, let termCounts else {
                    let made = rows! + (start + row) * keyDim
                    made.update(from: source, count: count)
                    if format == .int8 { dcp_rotate_rows(made, Int64(part.tokens.count), Int64(keyDim)) }
                    continue
                }
                if format == .int8 {
                    dcp_byte_queries(
                        source, Int64(part.tokens.count), Int64(keyDim), terms + (start + row) * 3 * keyDim)
                    continue
                }
                let needed = dcp_split_queries(
                    source, Int64(count), terms + (start * 3 + row) * keyDim, Int64(stride))
                termCounts[index] = max(termCounts[index], needed)
            }
        }
    }

    deinit {
        rows?.deallocate()
        plain?.deallocate()
        terms?.deallocate()
        termCounts?.deallocate()
    }

    func floats(ofTile tile: Int) -> UnsafePointer<Float>? {
        rows.map { UnsafePointer($0 + firstRow[tile] * keyDim) }
    }

    func plainFloats(ofTile tile: Int) -> UnsafePointer<Float>? {
        plain.map { UnsafePointer($0 + firstRow[tile] * keyDim) }
    }

    /// Pairs of dimensions, or bytes, and the number of terms.
    func terms(ofTile tile: Int) -> (UnsafePointer<UInt32>, count: Int32)? {
        guard let terms, let termCounts else { return nil }
        let start = UnsafeRawPointer(terms + firstRow[tile] * 3 * keyDim)
        return (start.assumingMemoryBound(to: UInt32.self), termCounts[tile])
    }
}
