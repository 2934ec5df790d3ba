// SPDX-License-Identifier: Apache-2.0

public import DCPCore

/// One piece from each member of a head group, in whatever order they come; handed out in rank order.
///
/// The collectives below are values on top of it. They have no clock and no socket: a piece comes in, and when it was
/// the last, all of them go out. Pieces may come before this rank has made its own: a fast peer is not told to wait.
///
/// Inlinable, as the collectives are: a step has four of them, and what the runtime does for a type that the compiler does not know
/// took the event loop 30 us a step.
@usableFromInline
struct Roster<Piece: Equatable & Sendable>: Sendable {
    @usableFromInline var pieces: [Piece?]
    @usableFromInline var missingCount: Int

    @inlinable
    init(members: Int) {
        precondition(members >= 1)
        pieces = Array(repeating: nil, count: members)
        missingCount = members
    }

    /// - Returns: false for the same piece again, which changes nothing: a frame may come twice.
    /// - Throws: `.protocolViolation` for a member that does not exist or a second, different piece from one.
    @inlinable
    mutating func insert(_ piece: Piece, from member: Int, of collective: StaticString) throws(ServiceError) -> Bool {
        guard pieces.indices.contains(member) else {
            throw ServiceError(
                .protocolViolation,
                "Context rank \(member) sent a piece of the \(collective), but the head group has \(pieces.count) ranks."
            )
        }
        if let known = pieces[member] {
            guard known == piece else {
                throw ServiceError(
                    .protocolViolation,
                    "Context rank \(member) sent a second, different piece of the \(collective) of one step.")
            }
            return false
        }
        pieces[member] = piece
        missingCount -= 1
        return true
    }

    /// All pieces in rank order, when they are complete.
    @inlinable var complete: [Piece]? { missingCount == 0 ? pieces.map { $0! } : nil }

    /// Whose pieces have not come.
    @inlinable var missing: [Int] { pieces.indices.filter { pieces[$0] == nil } }
}
