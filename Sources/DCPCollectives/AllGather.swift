public import DCPCore

/// Every member gives one piece to all; every member ends with all pieces in rank order.
public struct AllGather<Piece: Equatable & Sendable>: Sendable {
    public enum Action: Sendable {
        /// The own piece, to each other member.
        case send(Piece, to: Int)
        /// All pieces, in rank order. Once.
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

    /// Gives the own piece.
    public mutating func contribute(_ piece: Piece) throws(ServiceError) -> [Action] {
        _ = try roster.insert(piece, from: rank, of: "all-gather")
        return (0..<members).filter { $0 != rank }.map { .send(piece, to: $0) } + finished
    }

    public mutating func receive(_ piece: Piece, from member: Int) throws(ServiceError) -> [Action] {
        try roster.insert(piece, from: member, of: "all-gather") ? finished : []
    }

    private var finished: [Action] { roster.complete.map { [.finished($0)] } ?? [] }

    /// Members whose piece has not come, for the message when the deadline passes.
    public var missing: [Int] { roster.missing }
}
