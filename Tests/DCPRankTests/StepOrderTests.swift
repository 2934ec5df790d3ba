// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCore
import DCPRank
import DCPTestKit
import DCPWire
import Testing

/// DESIGN: a rank's machine sees the world only as the order of what is delivered to it, and deliveries to different
/// ranks commute. So when every order at one receiver gives the same messages with the same bits, every interleaving of
/// the whole group does. `everyOrder` walks all orders of one receiver, with each peer's messages in their order;
/// `interleavings` then walks whole groups by seed, which catches what that argument might have missed.
@Suite("StepMachine: orders of delivery")
struct StepOrderTests {
    static let pairs: [StepCase] = Exchange.allCases.flatMap { exchange in
        [StepRequest.QueryMode.gather, .replicate].map { StepCase(exchange: exchange, queryMode: $0) }
    }

    /// Without context, with all entries at their start; and a repeat, which does not append.
    static let more: [StepCase] = Exchange.allCases.flatMap { exchange in
        [
            StepCase(
                ranks: 3, exchange: exchange, entries: [.init(sequence: SequenceID(1), position: 0, count: 2)]),
            StepCase(exchange: exchange, appends: false), StepCase(ranks: 1, exchange: exchange),
            StepCase(exchange: exchange, queriesAlone: true), StepCase(exchange: exchange, commits: true),
        ]
    }

    static let triples: [StepCase] = Exchange.allCases.flatMap { exchange in
        [StepRequest.QueryMode.gather, .replicate].map {
            StepCase(ranks: 3, queryHeads: 3, kvHeads: 1, exchange: exchange, queryMode: $0)
        }
    }

    /// TRAPS 28, HeadPartition: 9 heads on 4 ranks are 3, 2, 2, 2; 2 heads on 3 ranks leave one without.
    static let uneven: [StepCase] = Exchange.allCases.flatMap { exchange in
        [
            StepCase(ranks: 4, queryHeads: 9, kvHeads: 3, exchange: exchange),
            StepCase(ranks: 3, queryHeads: 2, kvHeads: 1, exchange: exchange),
            StepCase(ranks: 3, queryHeads: 2, kvHeads: 1, exchange: exchange, queryMode: .replicate),
        ]
    }

    /// Visits every order in which one rank can be given what a canonical run gave it. Returns how many there are.
    private func orders(of member: Member, _ leaf: (Member) -> Void) throws -> Int {
        let choices = member.choices
        guard !choices.isEmpty else {
            leaf(member)
            return 1
        }
        var count = 0
        for choice in choices {
            var next = member
            _ = try next.take(choice)
            count += try orders(of: next, leaf)
        }
        return count
    }

    @Test(
        "every order at a receiver, 2 ranks both exchanges and 3 ranks all-to-all: one reply, the same bits sent",
        arguments: pairs + more + triples.filter { $0.exchange == .allToAll })
    func everyOrder(test: StepCase) throws {
        var canonical = try Group(test)
        try canonical.run { _ in 0 }
        let expected = try test.expected()
        for rank in 0..<test.ranks {
            let reference = canonical.outcomes[rank]
            var member = try Member(test, rank: rank)
            for peer in 0..<test.ranks where peer != rank {
                member.inboxes[peer] = canonical.outcomes[peer].sent[rank] ?? []
            }
            var failures = 0
            let count = try orders(of: member) { end in
                let isRight =
                    end.outcome.replies.map { bits($0) } == [bits(expected[rank])] && end.outcome.verdicts.isEmpty
                    && end.outcome.rollBacks == 0 && end.machine.isFinished && end.machine.outstandingCount == 0
                    && end.outcome.sent.mapValues { $0.map { bits($0) } }
                        == reference.sent.mapValues { $0.map { bits($0) } }
                if !isRight { failures += 1 }
            }
            #expect(failures == 0, "of \(count) orders on rank \(rank)")
            let isPlain = test.ranks == 1 || test.entries.allSatisfy { $0.position == 0 }
            #expect(count >= (isPlain ? 2 : test.queriesAlone ? 5 : 20))
        }
    }

    @Test(
        "2,000 whole interleavings by seed: exactly one reply per rank, the expected bits",
        arguments: pairs + more + triples + uneven)
    func interleavings(test: StepCase) throws {
        var generator = SeededGenerator.ofRun(salt: 20)
        let expected = try test.expected().map { bits($0) }
        for _ in 0..<2000 {
            var group = try Group(test)
            try group.run { Int.random(in: 0..<$0, using: &generator) }
            let isRight = group.members.indices.allSatisfy { rank in
                let member = group.members[rank]
                return member.outcome.replies.map { bits($0) } == [expected[rank]] && member.outcome.verdicts.isEmpty
                    && member.outcome.rollBacks == 0 && member.machine.isFinished
            }
            guard isRight else {
                Issue.record("seed \(SeededGenerator.seed): \(test.testDescription): \(group.outcomes)")
                return
            }
        }
    }

    @Test("all-to-all and all-gather with reduce-scatter give the same bits", arguments: pairs + triples + uneven)
    func exchangesAgree(test: StepCase) throws {
        var other = test
        other.exchange = test.exchange == .allToAll ? .allGatherReduceScatter : .allToAll
        var first = try Group(test), second = try Group(other)
        try first.run { _ in 0 }
        try second.run { $0 - 1 }
        #expect(
            first.outcomes.map { $0.replies.map { bits($0) } } == second.outcomes.map { $0.replies.map { bits($0) } })
        #expect(first.outcomes.allSatisfy { $0.replies.count == 1 })
        // The empty shard's NaN did not get through.
        #expect(first.outcomes.allSatisfy { $0.replies[0].outputs.allSatisfy { $0.isFinite } })
    }

    @Test("the two exchanges send what they say: one message per peer, or two", arguments: pairs)
    func messages(test: StepCase) throws {
        var group = try Group(test)
        try group.run { _ in 0 }
        let kinds = (group.outcomes[0].sent[1] ?? []).map { bits($0)[0] }
        let gathered: [UInt64] = test.queryMode == .gather ? [0] : []
        #expect(kinds == gathered + (test.exchange == .allToAll ? [1] : [2, 3]))
    }

    @Test("a rank without own heads answers with no rows and still gives its shard's partials")
    func emptySlice() throws {
        for exchange in Exchange.allCases {
            let test = StepCase(ranks: 3, queryHeads: 2, kvHeads: 1, exchange: exchange)
            var group = try Group(test)
            try group.run { _ in 0 }
            #expect(group.outcomes.map { $0.replies[0].rows } == [2, 2, 0])
            #expect(group.outcomes[2].sent[0]?.isEmpty == false)
        }
    }
}
