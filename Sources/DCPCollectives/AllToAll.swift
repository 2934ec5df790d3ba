// SPDX-License-Identifier: Apache-2.0

public import DCPCore

/// Every member sends each other member a separate piece; every member ends with the pieces for it, in the rank order
/// of their senders.
public struct AllToAll<Piece: Equatable & Sendable>: Sendable {
    public enum Action: Sendable {
        case send(Piece, to: Int)
        /// The pieces for this rank, its own among them, in rank order. Once.
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

    /// Gives the own pieces, one for each member in rank order.
    @inlinable
    public mutating func contribute(_ pieces: [Piece]) throws(ServiceError) -> [Action] {
        precondition(pieces.count == members)
        _ = try roster.insert(pieces[rank], from: rank, of: "all-to-all")
        var actions: [Action] = []
        for member in 0..<members where member != rank { actions.append(.send(pieces[member], to: member)) }
        return actions + finished
    }

    @inlinable
    public mutating func receive(_ piece: Piece, from member: Int) throws(ServiceError) -> [Action] {
        try roster.insert(piece, from: member, of: "all-to-all") ? finished : []
    }

    @inlinable var finished: [Action] { roster.complete.map { [.finished($0)] } ?? [] }

    /// Members whose piece has not come, for the message when the deadline passes.
    @inlinable public var missing: [Int] { roster.missing }
}
