// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCore
import DCPRank
import DCPTestKit
import DCPWire
import Testing

/// Ways in which one rank can fail a step.
private enum Fault: CaseIterable, Sendable {
    /// A running computation, the append among them.
    case computation
    case peerGone
    case expired
}

@Suite("StepMachine: one rank fails")
struct StepFailureTests {
    static let cases: [StepCase] =
        StepOrderTests.pairs + [
            StepCase(ranks: 3, queryHeads: 3, kvHeads: 1), StepCase(ranks: 4, queryHeads: 9, kvHeads: 3),
            StepCase(ranks: 3, queryHeads: 2, kvHeads: 1, exchange: .allGatherReduceScatter),
            StepCase(exchange: .allToAll, appends: false),
            StepCase(ranks: 3, entries: [.init(sequence: SequenceID(1), position: 0, count: 2)]),
        ]

    private let error = ServiceError(.storeDamaged, "A block of the context fails its checksum.", rank: RankIndex(1))

    /// Makes a rank fail; returns whether it could in that way.
    private func strike(_ fault: Fault, _ group: inout Group, rank: Int) throws -> Bool {
        guard !group.members[rank].isStartPending else { return false }
        switch fault {
        case .computation:
            guard let first = group.members[rank].computations.first else { return false }
            group.members[rank].computations.removeFirst()
            if case .appended = first {
                try group.deliver(.appendFailed(error), to: rank)
            } else {
                try group.deliver(.computationFailed(error), to: rank)
            }
        case .peerGone: try group.deliver(.failed(error), to: rank)
        case .expired: try group.deliver(.expired, to: rank)
        }
        return true
    }

    /// What has to hold at the end, wherever the failure struck.
    private func problem(in group: Group, failing rank: Int, hadReplied: Bool) -> String? {
        for member in group.members {
            let outcome = member.outcome
            if outcome.endings != 1 { return "rank \(member.rank) answered \(outcome.endings) times" }
            if member.machine.outstandingCount != 0 || !member.machine.isFinished {
                return "rank \(member.rank) has \(member.machine.outstandingCount) computations outstanding"
            }
            let owed = member.test.appends && !outcome.verdicts.isEmpty ? 1 : 0
            if outcome.rollBacks != owed { return "rank \(member.rank) rolled back \(outcome.rollBacks) times" }
            if let verdict = outcome.verdicts.first, verdict != group.outcomes[rank].verdicts.first {
                return "rank \(member.rank) ended with another verdict: \(verdict)"
            }
        }
        if group.outcomes[rank].verdicts.isEmpty != hadReplied { return "the failing rank answered otherwise" }
        return nil
    }

    @Test(
        "TRAPS 12, 13: at every point of a run, in every way: one answer each, one verdict, one roll back",
        arguments: cases)
    func everyPoint(test: StepCase) throws {
        var whole = try Group(test)
        let count = try whole.run { _ in 0 }
        for pick in [{ (_: Int) in 0 }, { $0 - 1 }, { $0 / 2 }] {
            for point in 0..<count {
                for rank in 0..<test.ranks {
                    for fault in Fault.allCases {
                        var group = try Group(test)
                        for _ in 0..<point {
                            let choices = group.choices
                            let (rank, choice) = choices[pick(choices.count)]
                            try group.take(rank, choice)
                        }
                        let hadReplied = !group.outcomes[rank].replies.isEmpty
                        guard try strike(fault, &group, rank: rank) else { continue }
                        try group.run(pick: pick)
                        let problem = problem(in: group, failing: rank, hadReplied: hadReplied)
                        #expect(problem == nil, "rank \(rank), \(fault) after \(point) of \(count)")
                    }
                }
            }
        }
    }

    @Test("TRAPS 12, 13: at random points of 2,000 random interleavings", arguments: cases)
    func interleavings(test: StepCase) throws {
        var generator = SeededGenerator.ofRun(salt: 30)
        var struck = 0
        for _ in 0..<2000 {
            var group = try Group(test)
            let rank = Int.random(in: 0..<test.ranks, using: &generator)
            let fault = Fault.allCases.randomElement(using: &generator)!
            for _ in 0..<Int.random(in: 0..<12 * test.ranks, using: &generator) {
                guard let (rank, choice) = group.choices.randomElement(using: &generator) else { break }
                try group.take(rank, choice)
            }
            let hadReplied = !group.outcomes[rank].replies.isEmpty
            guard try strike(fault, &group, rank: rank) else { continue }
            struck += 1
            try group.run { Int.random(in: 0..<$0, using: &generator) }
            if let problem = problem(in: group, failing: rank, hadReplied: hadReplied) {
                Issue.record("seed \(SeededGenerator.seed): \(test.testDescription): \(problem)")
                return
            }
        }
        #expect(struck > 500)
    }

    @Test("a rank that refuses the request ends the others, who had no message of it", arguments: cases)
    func refusedBeforeStart(test: StepCase) throws {
        var group = try Group(test)
        // Rank 0 never makes a machine; its shell sends the verdict to the group.
        group.members[0].isStartPending = false
        group.members[0].isContextReadyPending = false
        for rank in 1..<test.ranks { group.members[rank].inboxes[0].append(.aborted(error)) }
        try group.run { $0 - 1 }
        for member in group.members.dropFirst() {
            #expect(member.outcome.verdicts == [error])
            #expect(member.outcome.replies.isEmpty && member.machine.isFinished)
            #expect(member.outcome.rollBacks == (test.appends ? 1 : 0))
        }
    }

    @Test("a verdict before the client's request ends the step finally")
    func verdictBeforeStart() throws {
        for test in Self.cases {
            var member = try Member(test, rank: 0)
            #expect(try member.deliver(.aborted(error)).isEmpty)
            _ = try member.take(.start)
            _ = try member.take(.contextReady)
            #expect(member.outcome.verdicts == [error] && member.computations.isEmpty && member.machine.isFinished)
        }
    }

    @Test("the rank where the verdict arose sends it to each other rank once; the others do not forward it")
    func whoTells() throws {
        let test = StepCase(ranks: 3, queryHeads: 3, kvHeads: 1)
        var group = try Group(test)
        for rank in 0..<3 { try group.take(rank, .start) }
        try group.deliver(.failed(error), to: 1)
        try group.run { _ in 0 }
        let aborts = group.outcomes.map { outcome in
            outcome.sent.mapValues { $0.count { if case .aborted = $0 { true } else { false } } }.filter {
                $0.value > 0
            }
        }
        #expect(aborts == [[:], [0: 1, 2: 1], [:]])
    }

    @Test("late answers and messages after the end change nothing, and a late append is rolled back")
    func lateAnswers() throws {
        let test = StepCase()
        var group = try Group(test)
        for rank in 0..<2 { try group.take(rank, .start) }
        try group.take(0, .contextReady)
        var member = group.members[0]
        _ = try member.deliver(.aborted(error))
        #expect(member.outcome.verdicts == [error] && member.outcome.rollBacks == 0)
        #expect(member.machine.isOver && !member.machine.isFinished && member.machine.outstandingCount == 2)
        let slices = [test.queries(ofRank: 0), test.queries(ofRank: 1)]
        let late: [StepMachine.Event] = [
            .query(slices[1], from: 1), .contextReady, .failed(error), .expired, .aborted(error),
            .partial(Partial(test.newTokens(ofRank: 0)), from: 1), .logSumExp([1], from: 1), .corrected([1], from: 1),
            .newTokensDone(test.newTokens(ofRank: 0)),
        ]
        for event in late { #expect(try member.deliver(event).isEmpty) }
        #expect(member.outcome.endings == 1 && member.outcome.rollBacks == 0 && !member.machine.isFinished)
        #expect(try member.deliver(.appended).isEmpty)
        #expect(member.outcome.rollBacks == 1 && member.machine.isFinished)
        #expect(try member.deliver(.aborted(error)).isEmpty)
        #expect(member.outcome.rollBacks == 1 && member.outcome.endings == 1)
    }

    @Test("a repeat appends nothing and takes nothing back")
    func repeatedStep() throws {
        let test = StepCase(appends: false)
        var member = try Member(test, rank: 0)
        for action in member.machine.start(test.queries(ofRank: 0)) + member.machine.handle(.contextReady) {
            if case .startAppend = action { Issue.record("a repeat appends") }
        }
        _ = try member.deliver(.failed(error))
        #expect(member.outcome.verdicts == [error] && member.outcome.rollBacks == 0)
    }

    @Test("an append starts when the tokens before it are in place, once")
    func appendWaits() throws {
        let test = StepCase()
        var machine = try test.machine(ofRank: 0)
        func appends(_ actions: [StepMachine.Action]) -> Int {
            actions.count { if case .startAppend = $0 { true } else { false } }
        }
        #expect(appends(machine.start(test.queries(ofRank: 0))) == 0)
        #expect(appends(machine.handle(.contextReady)) == 1)
        #expect(appends(machine.handle(.contextReady)) == 0)
    }
}
