// SPDX-License-Identifier: Apache-2.0

internal import CAttentionKernels
internal import DCPCore

/// The queries of an entry in the form its kernels read, one tile after the other. Made once for all pieces: by the thread of
/// the piece where a tile has one, so that many rows are shared out among threads, and those of a tile lie in a cache.
///
/// `@unchecked Sendable`: a tile is made by one thread, and read by those that know that it was.
final class TileQueries: @unchecked Sendable {
    /// `[rows][Dk]`, Float32; nil when the kernels read terms.
    private let rows: UnsafeMutablePointer<Float>?
    /// For each tile `[3][rows][Dk]` bf16, of which the tile's first terms are used; of int8 `[rows][3 Dk]`, in which
    /// `dcp_byte_queries` has its own order.
    private let terms: UnsafeMutablePointer<UInt16>?
    /// How many terms each tile has.
    private let termCounts: UnsafeMutablePointer<Int32>?
    /// For each tile, the first of its rows, and behind the last how many there are.
    private let firstRow: [Int]
    private let keyDim: Int
    private let format: CacheFormat

    /// Room for some tiles.
    /// - Parameters:
    ///   - rows: of each tile.
    ///   - format: of the keys that they meet; those of int8 are rotated, and queries with them.
    ///   - asTerms: whether the kernels take queries as terms.
    init(rows tiles: [Int], keyDim: Int, format: CacheFormat, asTerms: Bool) {
        self.keyDim = keyDim
        self.format = format
        firstRow = tiles.reduce(into: [0]) { $0.append($0[$0.count - 1] + $1) }
        let count = firstRow[tiles.count]
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

    /// Makes rows of a tile, before they are read: those of some heads and tokens, one head after the other.
    /// - Parameters:
    ///   - part: whose they are.
    ///   - first: the number of the first of them in the tile.
    ///   - queries: the step's, unscaled.
    ///   - tokens: the entry's among the step's.
    func make(
        _ part: WorkSplit.Tile, at index: Int, from first: Int = 0, of queries: QueryRows, tokens: Range<Int>
    ) {
        let start = firstRow[index], count = part.tokens.count * keyDim
        let stride = (firstRow[index + 1] - start) * keyDim
        queries.values.withUnsafeBufferPointer { values in
            guard let base = values.baseAddress else { return }
            for (place, head) in part.heads.enumerated() {
                // A head's tokens lie beside each other in the step's queries, and in the tile.
                let token =
                    (head - queries.heads.lowerBound) * queries.tokens + tokens.lowerBound + part.tokens.lowerBound
                let source = base + token * keyDim
                let row = first + place * part.tokens.count
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
        terms?.deallocate()
        termCounts?.deallocate()
    }

    func floats(ofTile tile: Int) -> UnsafePointer<Float>? {
        rows.map { UnsafePointer($0 + firstRow[tile] * keyDim) }
    }

    /// Pairs of dimensions, or bytes, and how many terms.
    func terms(ofTile tile: Int) -> (UnsafePointer<UInt32>, count: Int32)? {
        guard let terms, let termCounts else { return nil }
        let start = UnsafeRawPointer(terms + firstRow[tile] * 3 * keyDim)
        return (start.assumingMemoryBound(to: UInt32.self), termCounts[tile])
    }
}
