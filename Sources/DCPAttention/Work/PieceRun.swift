// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import Synchronization

/// A computation that a thread performs one portion at a time.
package protocol PortionRun: AnyObject, Sendable {
    /// Computes the next portion.
    /// - Returns: whether there are more.
    func advance() -> Bool
}

/// How much of a piece a thread computes at a time.
struct Portion {
    /// A multiple of `unit`.
    let tokens: Int
    /// In multiply-adds; waiting for memory counts as the multiply-adds that would fit into that time.
    let cost: Int

    /// - Parameters:
    ///   - multiplications: multiply-adds for each key token.
    ///   - byteCount: bytes of each key token.
    ///   - keyTokens: key tokens of the piece.
    ///   - unit: a portion has a multiple of this number of tokens.
    init(multiplications: Int, byteCount: Int, keyTokens: Int, unit: Int) {
        let most = min(PieceRun.multiplicationsMax / multiplications, PieceRun.byteCountMax / byteCount)
        tokens = max(1, most / unit) * unit
        let count = min(tokens, keyTokens)
        cost = max(
            count * multiplications, count * byteCount * (PieceRun.multiplicationsMax / PieceRun.byteCountMax))
    }
}

/// Computes a piece one portion at a time, so that its thread can turn to other work between two portions.
///
/// A portion is a range of the piece's key tokens, in order: at most `multiplicationsMax` multiply-adds and
/// `byteCountMax` bytes of keys and values, which takes a thread of a Zen 4 at most 0.7 ms, and at least one block. The
/// piece's states stay in the work's memory, so it does not matter to any bit which thread continues, or when. Smaller
/// pieces were rejected: each has a state, and those of a prefill are megabytes that must be merged.
///
/// `@unchecked Sendable`: one thread at a time uses it, and handing it on synchronises its memory.
package final class PieceRun: PortionRun, @unchecked Sendable {
    private let work: AttentionWork
    private let index: Int
    private let keys: Range<Int>
    private let portionTokens: Int
    /// The first key token of the next portion.
    private var next: Int
    /// For pieces with more tokens than one state may take: of all tiles together, or with sgemm of each tile.
    private let carried: [CarriedStates]
    private let multiplies: Bool

    /// A thread computes this much in about 0.7 ms: less than a step between machines takes, and a thousand times what
    /// switching between pieces costs.
    package static let multiplicationsMax = 1 << 25
    /// A thread reads this much in about 0.4 ms.
    package static let byteCountMax = 8 << 20

    /// - Parameters:
    ///   - piece: `0..<pieceCount`; each piece has one run.
    ///   - portionTokens: key tokens of a portion, in whole blocks; nil for the most that the bounds allow.
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
    /// The largest cost of a portion of a piece; see `Portion.cost`.
    package func portionCost(ofPiece index: Int) -> Int { portion(of: split.pieces[index]).cost }

    /// The cost of the whole work, if it is no more than a portion of each piece.
    package var cost: Int { (0..<pieceCount).reduce(0) { $0 + portionCost(ofPiece: $1) } }

    /// Multiply-adds for each key token.
    func multiplications(of piece: WorkSplit.Piece) -> Int {
        split.tiles[piece.tiles].reduce(0) { $0 + $1.rows } * (attention.keyDim + attention.valueDim)
    }

    /// Bytes of one key token.
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
