// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import Synchronization

/// A computation of which a thread does a portion at a time.
package protocol PortionRun: AnyObject, Sendable {
    /// Computes the next portion.
    /// - Returns: whether there are more.
    func advance() -> Bool
}

/// How much of a piece is computed at a time.
struct Portion {
    /// In whole blocks, or what else a portion begins and ends at.
    let tokens: Int
    /// In multiplications with their additions; where it waits for memory, as many as would fit into that time.
    let cost: Int

    /// - Parameters:
    ///   - multiplications: for each key token.
    ///   - byteCount: of one key token.
    ///   - keyTokens: of the piece.
    ///   - unit: tokens of which a portion has a multiple.
    init(multiplications: Int, byteCount: Int, keyTokens: Int, unit: Int) {
        let most = min(PieceRun.multiplicationsMax / multiplications, PieceRun.byteCountMax / byteCount)
        tokens = max(1, most / unit) * unit
        let count = min(tokens, keyTokens)
        cost = max(
            count * multiplications, count * byteCount * (PieceRun.multiplicationsMax / PieceRun.byteCountMax))
    }
}

/// A piece that is computed a portion at a time, so that a thread may do something else between two.
///
/// A portion is some of the piece's key tokens, in their order: at most `multiplicationsMax` multiplications with their
/// additions and `byteCountMax` bytes of keys and values, which takes a thread 0.7 ms at the most on a Zen 4, and no less than
/// a block. The piece's states stand in the work's memory, so which thread goes on, and when, changes no bit. Smaller pieces
/// were the other way to the same end: each has a state of its own, and of a prefill they are megabytes that have to be merged.
///
/// `@unchecked Sendable`: one thread at a time has it, and who hands it on makes visible what was written.
package final class PieceRun: PortionRun, @unchecked Sendable {
    private let work: AttentionWork
    private let index: Int
    private let keys: Range<Int>
    private let portionTokens: Int
    /// The first key token of the next portion.
    private var next: Int
    /// For pieces that are longer than a state may be: of all tiles together, or beside sgemm of each.
    private let carried: [CarriedStates]
    private let multiplies: Bool

    /// What a thread computes in some 0.7 ms: less than what a step between machines takes, and a thousand times what changing
    /// from one piece to another costs.
    package static let multiplicationsMax = 1 << 25
    /// What a thread reads in some 0.4 ms.
    package static let byteCountMax = 8 << 20

    /// - Parameters:
    ///   - piece: `0..<pieceCount`, of which there is no other run.
    ///   - portionTokens: key tokens of a portion, in whole blocks; nil for as many as the bounds allow.
    package init(_ work: AttentionWork, piece index: Int, portionTokens: Int? = nil) {
        self.work = work
        self.index = index
        let piece = work.split.pieces[index]
        keys = piece.keys
        next = keys.lowerBound
        multiplies = work.multiplies(piece)
        self.portionTokens = portionTokens ?? work.portion(of: piece).tokens
        let groups = multiplies ? piece.tiles.map { $0..<$0 + 1 } : [piece.tiles]
        carried = work.carryShift > 0 ? groups.map(work.carriedStates) : []
    }

    package func advance() -> Bool {
        if next == keys.lowerBound { work.begin(piece: index) }
        let portion = next..<min(next + portionTokens, keys.upperBound)
        if multiplies {
            for (place, tile) in work.split.pieces[index].tiles.enumerated() {
                work.multiply(portion, ofTile: tile, piece: index, carried.isEmpty ? nil : carried[place])
            }
        } else {
            work.attend(portion, ofPiece: index, carried.first)
        }
        next = portion.upperBound
        guard next == keys.upperBound else { return true }
        work.finishedPieces.add(1, ordering: .acquiringAndReleasing)
        return false
    }
}

extension AttentionWork {
    /// What each portion of a piece takes at most; see `Portion.cost`.
    package func portionCost(ofPiece index: Int) -> Int { portion(of: split.pieces[index]).cost }

    /// What all of it takes, where that is no more than a portion of each piece.
    package var cost: Int { (0..<pieceCount).reduce(0) { $0 + portionCost(ofPiece: $1) } }

    /// For each key token.
    func multiplications(of piece: WorkSplit.Piece) -> Int {
        split.tiles[piece.tiles].reduce(0) { $0 + $1.rows } * (attention.keyDim + attention.valueDim)
    }

    /// Of one key token.
    func byteCount(of piece: WorkSplit.Piece) -> Int {
        max(1, kvHeads(of: piece) * blocks.layout.headByteCount / blocks.layout.blockTokens)
    }

    fileprivate func portion(of piece: WorkSplit.Piece) -> Portion {
        Portion(
            multiplications: multiplications(of: piece), byteCount: byteCount(of: piece), keyTokens: piece.keys.count,
            unit: multiplies(piece) ? Self.tileTokens : blocks.layout.blockTokens)
    }

    fileprivate func multiplies(_ piece: WorkSplit.Piece) -> Bool {
        kernels.usesSgemm && piece.tiles.contains { split.tiles[$0].rows > AttentionKernels.rowsMaxBesideSgemm }
    }

    func carriedStates(of tiles: Range<Int>) -> CarriedStates {
        CarriedStates(rows: split.tiles[tiles].map(\.rows), valueDim: attention.valueDim, shift: carryShift)
    }

    fileprivate func begin(piece index: Int) {
        readAhead?.begin(piece: index)
        for tile in split.pieces[index].tiles {
            if split.tiles[tile].pieces.count == 1 {
                tileQueries.make(split.tiles[tile], at: tile, of: queries, tokens: tokens)
            }
            state(ofTile: tile, piece: index).begin(rows: split.tiles[tile].rows, valueDim: attention.valueDim)
        }
    }
}
