public import DCPCore

/// Every member sends each other member a separate piece; every member ends with the pieces for it, in the rank order
/// of their senders.
public struct AllToAll<Piece: Equatable & Sendable>: Sendable {
    public enum Action: Sendable {
        case send(Piece, to: Int)
        /// The pieces for this rank, its own among them, in rank order. Once.
        case finished([Piece])
    }

    private let rank: Int
    private let members: Int
    private var roster: Roster<Piece>

    public init(rank: Int, members: Int) {
        precondition((0..<members).contains(rank))
        self.rank = rank
        self.members = members
        roster = Roster(members: members)
    }

    /// Gives the own pieces, one for each member in rank order.
    public mutating func contribute(_ pieces: [Piece]) throws(ServiceError) -> [Action] {
        precondition(pieces.count == members)
        _ = try roster.insert(pieces[rank], from: rank, of: "all-to-all")
        return (0..<members).filter { $0 != rank }.map { .send(pieces[$0], to: $0) } + finished
    }

    public mutating func receive(_ piece: Piece, from member: Int) throws(ServiceError) -> [Action] {
        try roster.insert(piece, from: member, of: "all-to-all") ? finished : []
    }

    private var finished: [Action] { roster.complete.map { [.finished($0)] } ?? [] }

    /// Members whose piece has not come, for the message when the deadline passes.
    public var missing: [Int] { roster.missing }
}
