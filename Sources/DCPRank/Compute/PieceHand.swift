// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention

/// Pieces that a thread takes at once: to take one and to give it back costs two microseconds, and one of a long decode
/// step lasts a hundred.
package struct PieceHand: Sendable {
    private let pieces: ArraySlice<DealtPiece>
    /// See `Portion.cost`. Of a piece that is longer than a portion, what a portion costs.
    let cost: Int

    /// At least so many hands are dealt to each thread, where there are as many pieces: then all threads end within a
    /// sixteenth of the time.
    private static let handsOfThread = 16

    static func deal(_ pieces: [DealtPiece], threads: Int) -> [PieceHand] {
        let costs = pieces.map(\.portionCost)
        return ranges(of: costs, threads: threads).map { range in
            PieceHand(pieces: pieces[range], cost: costs[range].reduce(0, +))
        }
    }

    /// The pieces of each hand: consecutive ones, which together cost no more than a portion may.
    package static func ranges(of costs: [Int], threads: Int) -> [Range<Int>] {
        let most = min(PieceRun.multiplicationsMax, costs.reduce(0, +) / (threads * handsOfThread))
        var ranges: [Range<Int>] = []
        var (first, cost) = (0, 0)
        for (next, costOfNext) in costs.enumerated() {
            if next > first, cost + costOfNext > most {
                ranges.append(first..<next)
                (first, cost) = (next, 0)
            }
            cost += costOfNext
        }
        return first < costs.count ? ranges + [first..<costs.count] : ranges
    }

    func run() -> any PortionRun {
        guard pieces.count == 1, let only = pieces.first else { return HandRun(pieces) }
        return only.run()
    }
}

/// Computes short pieces one after another, as a single portion.
private final class HandRun: PortionRun {
    private let pieces: ArraySlice<DealtPiece>

    init(_ pieces: ArraySlice<DealtPiece>) { self.pieces = pieces }

    func advance() -> Bool {
        for piece in pieces {
            let run = piece.run()
            while run.advance() {}
        }
        return false
    }
}
