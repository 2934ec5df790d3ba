// SPDX-License-Identifier: Apache-2.0

public import DCPCore

/// Every member gives one piece to all; every member ends with all pieces in rank order.
public struct AllGather<Piece: Equatable & Sendable>: Sendable {
    public enum Action: Sendable {
        /// The own piece, to each other member.
        case send(Piece, to: Int)
        /// All pieces, in rank order. Once.
        case finished([Piece])
    }

    @usableFromInline let rank: Int
    @usableFromInline let members: Int
    @usableFromInline var roster: Roster<Piece>

    @inlinable
    public init(rank: Int, members: Int) {
        precondition((0..<members).contains(rank))
        self.rank = rank
        self.members = members
        roster = Roster(members: members)
    }

    /// Gives the own piece.
    @inlinable
    public mutating func contribute(_ piece: Piece) throws(ServiceError) -> [Action] {
        _ = try roster.insert(piece, from: rank, of: "all-gather")
        var actions: [Action] = []
        for member in 0..<members where member != rank { actions.append(.send(piece, to: member)) }
        return actions + finished
    }

    @inlinable
    public mutating func receive(_ piece: Piece, from member: Int) throws(ServiceError) -> [Action] {
        try roster.insert(piece, from: member, of: "all-gather") ? finished : []
    }

    @inlinable var finished: [Action] { roster.complete.map { [.finished($0)] } ?? [] }

    /// Members whose piece has not come, for the message when the deadline passes.
    @inlinable public var missing: [Int] { roster.missing }
}
