internal import CAttentionKernels
internal import DCPCore

/// The queries of an entry in the form its kernels read, one tile after the other. Made once for all pieces: by the thread of
/// the piece where a tile has one, so that many rows are shared out among threads, and those of a tile lie in a cache.
///
/// `@unchecked Sendable`: a tile is made by one thread, and read by those that know that it was.
final class TileQueries: @unchecked Sendable {
    /// `[rows][Dk]`, Float32; nil when the kernels read terms.
    private let rows: UnsafeMutablePointer<Float>?
    /// For each tile `[3][rows][Dk]` bf16, of which the tile's first terms are used.
    private let terms: UnsafeMutablePointer<UInt16>?
    /// How many terms each tile has.
    private let termCounts: UnsafeMutablePointer<Int32>?
    /// For each tile, the first of its rows.
    private let firstRow: [Int]
    private let keyDim: Int

    /// Room for some tiles.
    /// - Parameter asTerms: whether the kernels take queries as sums of bf16.
    init(_ tiles: [WorkSplit.Tile], keyDim: Int, asTerms: Bool) {
        self.keyDim = keyDim
        var count = 0
        firstRow = tiles.map { tile in
            defer { count += tile.rows }
            return count
        }
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
    }

    /// Makes those of a tile, before they are read.
    /// - Parameters:
    ///   - queries: the step's, unscaled.
    ///   - tokens: the entry's among the step's.
    func make(_ tile: WorkSplit.Tile, at index: Int, of queries: QueryRows, tokens: Range<Int>) {
        let first = firstRow[index]
        guard let terms, let termCounts else {
            Self.forEachHead(of: tile, queries, tokens: tokens) { row, source in
                (rows! + (first + row) * keyDim).update(from: source, count: tile.tokens.count * keyDim)
            }
            return
        }
        var most: Int32 = 1
        Self.forEachHead(of: tile, queries, tokens: tokens) { row, source in
            let needed = dcp_split_queries(
                source, Int64(tile.tokens.count * keyDim), terms + (first * 3 + row) * keyDim, Int64(tile.rows * keyDim)
            )
            most = max(most, needed)
        }
        termCounts[index] = most
    }

    /// A head's tokens of a tile lie beside each other in the step's queries, and in the tile.
    private static func forEachHead(
        of tile: WorkSplit.Tile, _ queries: QueryRows, tokens: Range<Int>,
        _ body: (_ row: Int, UnsafePointer<Float>) -> Void
    ) {
        queries.values.withUnsafeBufferPointer { values in
            guard let base = values.baseAddress else { return }
            for (index, head) in tile.heads.enumerated() {
                let first =
                    (head - queries.heads.lowerBound) * queries.tokens + tokens.lowerBound + tile.tokens.lowerBound
                body(index * tile.tokens.count, base + first * queries.keyDim)
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

    /// Pairs of dimensions, and how many terms.
    func terms(ofTile tile: Int) -> (UnsafePointer<UInt32>, count: Int32)? {
        guard let terms, let termCounts else { return nil }
        let start = UnsafeRawPointer(terms + firstRow[tile] * 3 * keyDim)
        return (start.assumingMemoryBound(to: UInt32.self), termCounts[tile])
    }
}
