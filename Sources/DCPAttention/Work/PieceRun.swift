internal import DCPCore
internal import Synchronization

/// A piece that is computed a portion at a time, so that a thread may do something else between two.
///
/// A portion is some of the piece's key tokens, in their order: at most `multiplicationsMax` multiplications with their
/// additions and `byteCountMax` bytes of keys and values, which takes a thread 0.7 ms at the most on a Zen 4, and no less than
/// a block. The piece's states stand in the work's memory, so which thread goes on, and when, changes no bit. Smaller pieces
/// were the other way to the same end: each has a state of its own, and of a prefill they are megabytes that have to be merged.
///
/// `@unchecked Sendable`: one thread at a time has it, and who hands it on makes visible what was written.
package final class PieceRun: @unchecked Sendable {
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
        self.portionTokens = portionTokens ?? work.portionTokens(of: piece)
        let groups = multiplies ? piece.tiles.map { $0..<$0 + 1 } : [piece.tiles]
        carried = work.carryShift > 0 ? groups.map(work.carriedStates) : []
    }

    /// Computes the next portion.
    /// - Returns: whether there are more.
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
    /// What each portion of a piece takes at most, in multiplications with their additions; where it waits for memory, as many as
    /// would fit into that time.
    package func portionCost(ofPiece index: Int) -> Int {
        let piece = split.pieces[index]
        let tokens = min(portionTokens(of: piece), piece.keys.count)
        let read = tokens * byteCount(of: piece) * (PieceRun.multiplicationsMax / PieceRun.byteCountMax)
        return max(tokens * multiplications(of: piece), read)
    }

    /// What all of it takes, where that is no more than a portion of each piece.
    package var cost: Int { (0..<pieceCount).reduce(0) { $0 + portionCost(ofPiece: $1) } }

    /// For each key token.
    private func multiplications(of piece: WorkSplit.Piece) -> Int {
        split.tiles[piece.tiles].reduce(0) { $0 + $1.rows } * (attention.keyDim + attention.valueDim)
    }

    /// Of one key token.
    private func byteCount(of piece: WorkSplit.Piece) -> Int {
        let kvHeads = split.tiles[piece.tiles.upperBound - 1].kvHead - split.tiles[piece.tiles.lowerBound].kvHead + 1
        return max(1, kvHeads * blocks.layout.headByteCount / blocks.layout.blockTokens)
    }

    fileprivate func portionTokens(of piece: WorkSplit.Piece) -> Int {
        let unit = multiplies(piece) ? Self.tileTokens : blocks.layout.blockTokens
        let tokens = min(
            PieceRun.multiplicationsMax / multiplications(of: piece), PieceRun.byteCountMax / byteCount(of: piece))
        return max(1, tokens / unit) * unit
    }

    fileprivate func multiplies(_ piece: WorkSplit.Piece) -> Bool {
        kernels.usesSgemm && piece.tiles.contains { split.tiles[$0].rows > AttentionKernels.rowsMaxBesideSgemm }
    }

    fileprivate func carriedStates(of tiles: Range<Int>) -> CarriedStates {
        CarriedStates(rows: split.tiles[tiles].map(\.rows), valueDim: attention.valueDim, shift: carryShift)
    }

    fileprivate func begin(piece index: Int) {
        readAhead?.begin(piece: index)
        for tile in split.pieces[index].tiles {
            if split.tiles[tile].pieces.count == 1 {
                tileQueries.make(split.tiles[tile], at: tile, of: queries, tokens: tokens)
            }
            let state = state(ofTile: tile, piece: index)
            let rows = split.tiles[tile].rows
            // Set here and not by the kernels: they only ever add to a state.
            state.maximum.update(repeating: -.infinity, count: rows)
            state.sum.update(repeating: 0, count: rows)
            state.output.update(repeating: 0, count: rows * attention.valueDim)
        }
    }
}
