// SPDX-License-Identifier: Apache-2.0

/// A job that compute threads execute piece by piece.
package protocol ComputeJob: AnyObject, Sendable {
    /// Computes a piece that no thread has taken. As many threads are in here at a time as pieces were named.
    /// - Parameter goesOn: to be called by a piece that takes long, whenever a part of it is done.
    /// - Returns: the pieces that may be computed from now on. A job without waiting or running pieces has ended.
    func computePiece(_ goesOn: () -> Void) -> NextPieces
}

/// Pieces of a job that have become ready.
package struct NextPieces: Hashable, Sendable {
    package var count: Int
    /// Of each, in multiplications with their additions; see `PieceQueue`.
    package var cost: Int

    package static let none = NextPieces(count: 0, cost: 0)

    package init(count: Int, cost: Int) {
        self.count = count
        self.cost = cost
    }
}

/// A job of pieces that follow each other.
final class SerialJob: ComputeJob {
    private let cost: Int
    private let body: @Sendable (_ goesOn: () -> Void) -> Bool

    /// - Parameter body: computes the next piece; returns whether there are more.
    init(cost: Int = 0, _ body: @escaping @Sendable (_ goesOn: () -> Void) -> Bool) {
        self.cost = cost
        self.body = body
    }

    func computePiece(_ goesOn: () -> Void) -> NextPieces {
        body(goesOn) ? NextPieces(count: 1, cost: cost) : .none
    }
}
