// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention

/// A piece of a job's attention as it is dealt to threads: of one entry, or of what several entries share.
enum DealtPiece {
    case own(AttentionWork, piece: Int)
    case shared(SharedRead, piece: Int)

    /// Those of a step's entries, long ones first: what they have in common is read once.
    static func all(of works: [AttentionWork]) -> [DealtPiece] {
        let found = SharedRead.find(in: works)
        var pieces = found.reads.flatMap { read in (0..<read.pieceCount).map { DealtPiece.shared(read, piece: $0) } }
        for (work, taken) in zip(works, found.taken) {
            for piece in taken..<work.pieceCount { pieces.append(.own(work, piece: piece)) }
        }
        return pieces
    }

    /// See `Portion.cost`.
    var portionCost: Int {
        switch self {
        case .own(let work, let piece): work.portionCost(ofPiece: piece)
        case .shared(let read, let piece): read.portionCost(ofPiece: piece)
        }
    }

    func run() -> any PortionRun {
        switch self {
        case .own(let work, let piece): PieceRun(work, piece: piece)
        case .shared(let read, let piece): SharedRun(read, piece: piece)
        }
    }
}
