// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPRank
import DCPWire
import NIOCore
import Testing

/// Steps behind which something is committed: that is begun when the tokens are in place, and the reply waits for it.
@Suite("StepMachine: steps that commit")
struct CommitStepTests {
    private let failure = ServiceError(.storeFull, "The disk is full.")

    /// A rank alone, brought to where only its commit is left.
    private func committing() throws -> StepMachine {
        let test = StepCase(ranks: 1, commits: true)
        var machine = try test.machine(ofRank: 0)
        var actions = machine.start(test.queries(ofRank: 0)) + machine.handle(.contextReady)
        var names: [String] = []
        while !actions.isEmpty {
            let action = actions.removeFirst()
            names.append(name(of: action))
            if case .startCommit = action { break }
            if let event = try answer(to: action, of: test, rank: 0) { actions += machine.handle(event) }
        }
        #expect(names.last == "commit" && !names.contains("reply"), "\(names)")
        #expect(!machine.isOver && machine.outstandingCount == 1)
        return machine
    }

    private func name(of action: StepMachine.Action) -> String {
        switch action {
        case .startCommit: "commit"
        case .reply: "reply"
        case .fail(let error): "fail \(error.code)"
        case .rollBack: "roll back"
        case .sendAbort: "abort"
        default: "other"
        }
    }

    @Test("the commit begins when the tokens are in place and the merge is done, whichever is first")
    func begins() throws {
        for appendsFirst in [true, false] {
            let test = StepCase(ranks: 1, commits: true)
            var machine = try test.machine(ofRank: 0)
            let started = machine.start(test.queries(ofRank: 0)) + machine.handle(.contextReady)
            var late: [StepMachine.Event] = []
            var actions: [StepMachine.Action] = []
            for action in started {
                let event = try #require(try answer(to: action, of: test, rank: 0))
                if case .startAppend = action, !appendsFirst {
                    late.append(event)
                } else {
                    actions += machine.handle(event)
                }
            }
            for action in actions {
                guard let event = try answer(to: action, of: test, rank: 0) else { continue }
                if case .startCommit = action { continue }
                actions += machine.handle(event)
            }
            #expect(actions.contains { name(of: $0) == "commit" } == appendsFirst)
            for event in late { actions += machine.handle(event) }
            #expect(actions.count { name(of: $0) == "commit" } == 1)
            #expect(machine.handle(.committed).map { name(of: $0) } == ["reply"])
            #expect(machine.isFinished)
        }
    }

    @Test("a commit that fails is the answer; the tokens stay, as of one that was asked for by itself")
    func fails() throws {
        var machine = try committing()
        #expect(machine.handle(.commitFailed(failure)).map { name(of: $0) } == ["fail \(failure.code)"])
        #expect(machine.isFinished)
    }

    @Test("an error while a step commits ends its answer, not the commit: nothing is rolled back")
    func ended() throws {
        for event in [StepMachine.Event.aborted(failure), .failed(failure), .expired] {
            var machine = try committing()
            let names = machine.handle(event).map { name(of: $0) }
            #expect(names.count == 1 && names[0].hasPrefix("fail"), "\(names)")
            #expect(machine.isOver && !machine.isFinished, "its commit is under way")
            #expect(machine.handle(.committed).isEmpty)
            #expect(machine.isFinished)
        }
    }
}
