internal import CAttentionKernels
internal import DCPCore

/// The queries of an entry in the form its kernels read, one tile after the other. Made once for all pieces.
///
/// `@unchecked Sendable`: written in `init` only.
final class TileQueries: @unchecked Sendable {
    /// `[rows][Dk]`, Float32; nil when the kernels read terms.
    private let rows: UnsafeMutablePointer<Float>?
    /// For each tile `[3][rows][Dk]` bf16, of which the tile's first terms are used.
    private let terms: UnsafeMutablePointer<UInt16>?
    private let termCounts: [Int32]
    /// For each tile, the first of its rows.
    private let firstRow: [Int]
    private let keyDim: Int

    /// - Parameters:
    ///   - queries: the step's, unscaled.
    ///   - tokens: the entry's among the step's.
    ///   - asTerms: whether the kernels take queries as sums of bf16.
    init(_ queries: QueryRows, tokens: Range<Int>, tiles: [WorkSplit.Tile], asTerms: Bool) {
        let dim = queries.keyDim
        keyDim = dim
        var count = 0
        firstRow = tiles.map { tile in
            defer { count += tile.rows }
            return count
        }
        guard asTerms else {
            let rows = UnsafeMutablePointer<Float>.allocate(capacity: max(count * dim, 1))
            self.rows = rows
            terms = nil
            termCounts = []
            for (tile, first) in zip(tiles, firstRow) {
                Self.forEachHead(of: tile, queries, tokens: tokens) { row, source in
                    (rows + (first + row) * dim).update(from: source, count: tile.tokens.count * dim)
                }
            }
            return
        }
        let terms = UnsafeMutableRawPointer.allocate(byteCount: max(count * dim * 3 * 2, 64), alignment: 64)
            .bindMemory(to: UInt16.self, capacity: count * dim * 3)
        self.terms = terms
        rows = nil
        termCounts = zip(tiles, firstRow).map { tile, first in
            var most: Int32 = 1
            Self.forEachHead(of: tile, queries, tokens: tokens) { row, source in
                let needed = dcp_split_queries(
                    source, Int64(tile.tokens.count * dim), terms + (first * 3 + row) * dim, Int64(tile.rows * dim))
                most = max(most, needed)
            }
            return most
        }
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
    }

    func floats(ofTile tile: Int) -> UnsafePointer<Float>? {
        rows.map { UnsafePointer($0 + firstRow[tile] * keyDim) }
    }

    /// Pairs of dimensions, and how many terms.
    func terms(ofTile tile: Int) -> (UnsafePointer<UInt32>, count: Int32)? {
        terms.map { terms in
            let start = UnsafeRawPointer(terms + firstRow[tile] * 3 * keyDim)
            return (start.assumingMemoryBound(to: UInt32.self), termCounts[tile])
        }
    }
}
