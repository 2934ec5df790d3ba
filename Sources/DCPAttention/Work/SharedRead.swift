// SPDX-License-Identifier: Apache-2.0

internal import DCPCore

/// Key tokens that several entries of a step have in common, since their sequences are forks: their blocks are read once, and
/// the rows of all entries that share a KV head are one tile of the kernels.
///
/// DESIGN: an entry's rows have the bits that they have alone, whoever is beside them. So each keeps the cut into pieces, the
/// states and the rules of its own work, which depend on its own shape. A piece of the read is as long as the longest that a
/// member has there; those of the others lie in it (`WorkSplit`). Where one ends, its member's states go to the work, and
/// begin anew.
package final class SharedRead: Sendable {
    struct Member: Sendable {
        let work: AttentionWork
        /// The number of its first row in each tile.
        let firstRow: Int
        /// Of each tile.
        let rows: Int
        /// For each piece of the read, the first of its pieces that lie in it.
        let firstPiece: [Int]
    }

    let members: [Member]
    /// The key tokens of each piece, numbered as in every member.
    let pieces: [Range<Int>]
    /// Of each tile; there is one for each KV head.
    let rows: Int
    let queries: TileQueries
    /// Key tokens that all rows see.
    let shared: Range<Int>

    /// Of one tile.
    static let rowsMax = 64

    /// - Parameters:
    ///   - works: of the same step, with `rowsMax` rows of each KV head or fewer between them.
    ///   - firstPieces: for each, the first of its pieces in each of `pieces`.
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

    /// What each portion of a piece takes at most; see `Portion.cost`.
    package func portionCost(ofPiece index: Int) -> Int { portion(ofPiece: index).cost }

    func portion(ofPiece index: Int) -> Portion {
        let work = members[0].work, piece = work.split.pieces[0]
        return Portion(
            multiplications: members.reduce(0) { $0 + $1.work.multiplications(of: $1.work.split.pieces[0]) },
            byteCount: work.byteCount(of: piece), keyTokens: pieces[index].count, unit: work.blocks.layout.blockTokens)
    }

    /// What the reads of a step take at most beside its entries' states, before anything is cut: queries in the form that
    /// kernels read, and the running states of the pieces under way, which may be of two levels.
    /// - Parameters:
    ///   - rows: query heads times tokens, of all entries.
    ///   - threads: that compute pieces.
    package static func byteCountMax(rows: Int, kvHeads: Int, keyDim: Int, valueDim: Int, threads: Int) -> Int {
        rows * keyDim * 6 + threads * min(rows, kvHeads * rowsMax) * (valueDim + 2) * (4 + 8)
    }
}

extension AttentionWork {
    /// Whether its rows may be computed beside those of other entries: few, over several pieces, and by kernels of which a row
    /// does not depend on the rows beside it.
    var maySharePieces: Bool {
        split.isNested && split.pieces.count > 1 && split.pieces[0].keys.lowerBound == 0 && !visible.areOwn
            && !kernels.usesSgemm && split.tiles.allSatisfy { $0.rows == split.tiles[0].rows }
    }

    /// Of each tile, where all have as many.
    var rowsOfTile: Int { split.tiles[0].rows }
}
