import DCPCore
import DCPRank
import DCPWire
import Testing

@Suite("RewindFence")
struct RewindFenceTests {
    private typealias Tag = DCPWire.Tag

    private let epoch = Epoch(7)
    private let sequence = SequenceID(1)

    private func claim(_ number: UInt64) -> Claim { Claim(in: epoch, number: number) }
    private func tag(_ client: UInt64, _ number: UInt64) -> Tag { Tag(client: ClientID(client), number: number) }

    @Test("a rewind of an older claim than an earlier rewind's is refused, one of the same or a newer is not")
    func claims() throws {
        var fence = RewindFence()
        try fence.check(claim(4), of: sequence, in: epoch)
        fence.rewound(tag(1, 1), claim(4))
        try fence.check(claim(4), of: sequence, in: epoch)
        try fence.check(claim(6), of: sequence, in: epoch)
        fence.rewound(tag(2, 1), claim(6))
        let error = try #require(throws: ServiceError.self) { try fence.check(claim(4), of: sequence, in: epoch) }
        #expect(error.code == .claimed && error.isRetryable && error.message.contains("\(claim(4))"), "\(error)")
    }

    @Test("a claim of another epoch is refused, also by a rank that knows of no other", arguments: [6, 8, 0])
    func epochs(_ other: UInt64) {
        let fence = RewindFence()
        let foreign = other == 0 ? Claim.none : Claim(in: Epoch(other), number: 9)
        let error = #expect(throws: ServiceError.self) { try fence.check(foreign, of: sequence, in: epoch) }
        #expect(error?.code == .claimed)
    }

    @Test("steps of clients that used the sequence before a rewind come too late, and so do the rewinder's older ones")
    func steps() {
        var fence = RewindFence()
        fence.stepped(tag(1, 5))
        fence.rewound(tag(2, 3), claim(1))
        #expect(fence.isTooLate(tag(1, 6)) && fence.isTooLate(tag(2, 2)))
        #expect(!fence.isTooLate(tag(2, 4)) && !fence.isTooLate(tag(3, 1)))
        fence.rewound(tag(1, 7), claim(2))
        #expect(!fence.isTooLate(tag(1, 8)) && fence.isTooLate(tag(1, 6)) && fence.isTooLate(tag(2, 9)))
    }
}
