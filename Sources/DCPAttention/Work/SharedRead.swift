// SPDX-License-Identifier: Apache-2.0

internal import DCPCore

/// Key tokens that several entries of a step share because their sequences are forks. Their blocks are read once, and
/// the rows of all entries that share a KV head form one tile of the kernels.
///
/// DESIGN: an entry's rows have the same bits beside other entries as alone. So each entry keeps the pieces, the states
/// and the rules of its own work, which depend only on its own shape. A piece of the shared read is as long as the
/// longest piece that a member has there; the pieces of the others lie inside it (`WorkSplit`). At the end of a
/// member's piece its states are stored in its work, and new ones begin.
package final class SharedRead: Sendable {
    struct Member: Sendable {
        let work: AttentionWork
        /// The index of its first row in each tile.
        let firstRow: Int
        /// Of each tile.
        let rows: Int
        /// For each piece of the read, the first of the member's pieces inside it.
        let firstPiece: [Int]
    }

    let members: [Member]
    /// The key tokens of each piece; the indices are the same in all members.
    let pieces: [Range<Int>]
    /// Rows of each tile; there is one tile for each KV head.
    let rows: Int
    let queries: TileQueries
    /// The key tokens that all rows see.
    let shared: Range<Int>

    /// Of one tile.
    static let rowsMax = 64

    /// - Parameters:
    ///   - works: of one step, with at most `rowsMax` rows for each KV head in total.
    ///   - firstPieces: for each work, the first of its pieces in each of `pieces`.
    init(_ works: [AttentionWork], pieces: [Range<Int>], firstPieces: [[Int]]) {
        var rows = 0
        members = zip(works, firstPieces).map { work, firstPiece in
            defer { rows += work.rowsOfTile }
            return Member(work: work, firstRow: rows, rows: work.rowsOfTile, firstPiece: firstPiece)
        }
        precondition(rows <= Self.rowsMax, "\(rows) rows do not fit into a tile.")
        self.rows = rows
        self.pieces = pieces
        let tiles = works[0].split.tiles
        queries = TileQueries(
            rows: tiles.map { _ in rows }, keyDim: works[0].attention.keyDim, format: works[0].blocks.layout.format,
            asTerms: works[0].kernels.readsTerms(of: works[0].blocks.layout.format))
        shared = works.dropFirst().reduce(tiles[0].shared) { $0.clamped(to: $1.split.tiles[0].shared) }
        for member in members {
            for (index, tile) in member.work.split.tiles.enumerated() {
                queries.make(
                    tile, at: index, from: member.firstRow, of: member.work.queries, tokens: member.work.tokens)
            }
        }
    }

    package var pieceCount: Int { pieces.count }

    /// The largest cost of a portion of a piece; see `Portion.cost`.
    package func portionCost(ofPiece index: Int) -> Int { portion(ofPiece: index).cost }

    func portion(ofPiece index: Int) -> Portion {
        let work = members[0].work, piece = work.split.pieces[0]
        return Portion(
            multiplications: members.reduce(0) { $0 + $1.work.multiplications(of: $1.work.split.pieces[0]) },
            byteCount: work.byteCount(of: piece), keyTokens: pieces[index].count, unit: work.blocks.layout.blockTokens)
    }

    /// The most bytes that the shared reads of a step need beside the states of its entries, known before any work is
    /// split: queries in the kernels' form, and the running states of pieces in progress, which may have two levels.
    /// - Parameters:
    ///   - rows: query heads times tokens, over all entries.
    ///   - threads: how many compute pieces.
    package static func byteCountMax(rows: Int, layout: PanelLayout, threads: Int) -> Int {
        TileQueries.byteCountMax(rows: rows, layout)
            + threads * min(rows, layout.kvHeads * rowsMax) * (layout.valueDim + 2) * (4 + 8)
    }
}

extension AttentionWork {
    /// Whether its rows may share a tile with those of other entries: they are few, span several pieces, and the
    /// kernels compute each row independently of the others.
    var maySharePieces: Bool {
        split.isNested && split.pieces.count > 1 && split.pieces[0].keys.lowerBound == 0 && !visible.areOwn
            && !kernels.usesSgemm && split.tiles.allSatisfy { $0.rows == split.tiles[0].rows }
    }

    /// Rows of each tile, if all tiles have the same number.
    var rowsOfTile: Int { split.tiles[0].rows }
}
