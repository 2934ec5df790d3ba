// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCore
import DCPRank
import DCPWire
import NIOCore
import Testing

@Suite("StepMachine: who is waited for, and messages of another step")
struct StepWaitTests {
    /// The verdict of a member whose deadline passes now.
    private func expired(_ member: Member) throws -> String {
        var member = member
        _ = try member.deliver(.expired)
        let verdict = try #require(member.outcome.verdicts.first)
        #expect(verdict.code == .deadlineExceeded)
        return verdict.message
    }

    @Test("a step that expires names what it waited for, phase by phase, and the ranks")
    func expiry() throws {
        let test = StepCase(ranks: 3, queryHeads: 3, kvHeads: 1)
        var canonical = try Group(test)
        try canonical.run { _ in 0 }
        var member = try Member(test, rank: 0)
        _ = try member.take(.start)
        #expect(try expired(member).contains("the steps before it on the same layer"))
        _ = try member.take(.contextReady)
        #expect(try expired(member).contains("the queries of context rank 1, 2"))
        for peer in 1...2 { member.inboxes[peer] = canonical.outcomes[peer].sent[0] ?? [] }
        _ = try member.take(.message(from: 1))
        #expect(try expired(member).contains("the queries of context rank 2"))
        _ = try member.take(.message(from: 2))
        #expect(try expired(member).contains("its own attention over the context"))
        let context = try #require(member.computations.firstIndex { if case .contextDone = $0 { true } else { false } })
        _ = try member.take(.computation(context))
        #expect(try expired(member).contains("the partials of context rank 1, 2"))
        for peer in 1...2 { _ = try member.take(.message(from: peer)) }
        #expect(try expired(member).contains("its own attention over the new tokens"))
        let new = try #require(member.computations.firstIndex { if case .newTokensDone = $0 { true } else { false } })
        _ = try member.take(.computation(new))
        #expect(try expired(member).contains("its own append"))
        let append = try #require(member.computations.firstIndex { if case .appended = $0 { true } else { false } })
        _ = try member.take(.computation(append))
        #expect(try expired(member).contains("its own merge"))
    }

    @Test("ag-rs: the LSE, then the corrected outputs, are named")
    func expiryOfReduceScatter() throws {
        let test = StepCase(exchange: .allGatherReduceScatter, queryMode: .replicate)
        var canonical = try Group(test)
        try canonical.run { _ in 0 }
        var member = try Member(test, rank: 1)
        member.inboxes[0] = canonical.outcomes[0].sent[1] ?? []
        _ = try member.take(.start)
        _ = try member.take(.contextReady)
        let context = try #require(member.computations.firstIndex { if case .contextDone = $0 { true } else { false } })
        _ = try member.take(.computation(context))
        #expect(try expired(member).contains("the LSE of context rank 0"))
        _ = try member.take(.message(from: 0))
        let own = try #require(member.computations.firstIndex { if case .correctionDone = $0 { true } else { false } })
        _ = try member.take(.computation(own))
        #expect(try expired(member).contains("the corrected outputs of context rank 0"))
    }

    @Test("TRAPS 33: pieces of another shape, of strangers or replaced end the step, and say who sent them")
    func wrongPieces() throws {
        let test = StepCase(ranks: 3, queryHeads: 3, kvHeads: 1)
        let good = test.queries(ofRank: 1)
        var tokens = good, heads = good, dims = good
        tokens.tokens += 1
        heads.heads += 1
        dims.keyDim += 2
        var states = AttentionStates.empty(rows: test.tokens, valueDim: StepCase.valueDim)
        let rows = Partial(states)
        let bad: [(StepMachine.Event, String)] = [
            (.query(tokens, from: 1), "Context rank 1 sent queries"), (.query(heads, from: 1), "another step"),
            (.query(dims, from: 1), "another step"), (.query(good, from: 0), "second, different piece"),
            (.partial(Partial(.empty(rows: test.tokens + 1, valueDim: StepCase.valueDim)), from: 2), "Context rank 2"),
            (.partial(Partial(.empty(rows: test.tokens, valueDim: 4)), from: 2), "Context rank 2"),
            (.partial(rows, from: 3), "3 ranks"),
            (.logSumExp([Double](repeating: 0, count: 5), from: 2), "5 LSE values"),
            (.corrected([Float](repeating: 0, count: 3), from: 2), "3 outputs"),
        ]
        for (event, text) in bad {
            var member = try Member(test, rank: 0)
            _ = try member.take(.start)
            let aborts = try member.deliver(event)
            #expect(member.outcome.verdicts.map(\.code) == [.protocolViolation])
            #expect(member.outcome.verdicts[0].message.contains(text), "\(member.outcome.verdicts)")
            #expect(aborts.map(\.to) == [1, 2], "the group is told")
        }
        var member = try Member(test, rank: 0)
        _ = try member.take(.start)
        _ = try member.deliver(.partial(rows, from: 2))
        #expect(member.outcome.endings == 0, "an early partial is kept")
        _ = try member.deliver(.partial(rows, from: 2))
        #expect(member.outcome.endings == 0, "a frame may come twice")
        states.outputs[0] = 1
        _ = try member.deliver(.partial(Partial(states), from: 2))
        #expect(member.outcome.verdicts.map(\.code) == [.protocolViolation])
    }

    @Test("TRAPS 29: a step starts no exchange before its context is ready, whichever rank is early")
    func pipelined() throws {
        let test = StepCase()
        var canonical = try Group(test)
        try canonical.run { _ in 0 }
        var member = try Member(test, rank: 0)
        member.inboxes[1] = canonical.outcomes[1].sent[0] ?? []
        _ = try member.take(.start)
        while !member.inboxes[1].isEmpty { _ = try member.take(.message(from: 1)) }
        let context = member.computations.count { if case .contextDone = $0 { true } else { false } }
        #expect(context == 0 && member.outcome.endings == 0)
        _ = try member.take(.contextReady)
        while !member.computations.isEmpty { _ = try member.take(.computation(0)) }
        #expect(member.outcome.replies.map { bits($0) } == canonical.outcomes[0].replies.map { bits($0) })
    }
}
