// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCore
import DCPRank
import DCPTestKit
import DCPWire
import NIOCore
import Testing

/// Steps without queries: the tokens are appended, nothing is computed, and no rank answers before all have theirs.
@Suite("StepMachine: steps without queries")
struct AppendOnlyTests {
    private func machine(appends: Bool = true) throws -> StepMachine {
        try StepCase(ranks: 3, queryMode: .absent, appends: appends).machine(ofRank: 1)
    }

    private let none = QuerySlice(tokens: 2, heads: 0, keyDim: 8, dataType: .float32, queries: ByteBuffer())

    private func names(_ actions: [StepMachine.Action]) -> [String] {
        actions.map {
            switch $0 {
            case .startAppend: "append"
            case .reply(let answer): "reply \((try? StepCase.states(in: answer).rows) ?? -1)"
            case .fail(let error): "fail \(error.code)"
            case .sendAbort(_, let member): "abort \(member)"
            case .rollBack: "roll back"
            case .sendAppended(let member): "appended to \(member)"
            default: "\($0)"
            }
        }
    }

    @Test("it waits for the tokens before it, appends, tells its group, and replies when all of it has appended")
    func inOrder() throws {
        var machine = try machine()
        #expect(names(machine.start(none)) == [])
        #expect(names(machine.handle(.contextReady)) == ["append"])
        // A peer may be ahead.
        #expect(names(machine.handle(.peerAppended(from: 2))) == [])
        #expect(names(machine.handle(.appended)) == ["appended to 0", "appended to 2"])
        #expect(!machine.isOver)
        #expect(names(machine.handle(.peerAppended(from: 0))) == ["reply 0"])
        #expect(machine.isFinished)
    }

    @Test("a rank alone replies at once")
    func alone() throws {
        var machine = try StepCase(ranks: 1, queryMode: .absent).machine(ofRank: 0)
        #expect(names(machine.start(none) + machine.handle(.contextReady)) == ["append"])
        #expect(names(machine.handle(.appended)) == ["reply 0"])
    }

    @Test("a repeat, whose tokens are in place, says so at once, and waits for those whose are not")
    func repeated() throws {
        var machine = try machine(appends: false)
        #expect(names(machine.start(none)) == ["appended to 0", "appended to 2"])
        #expect(names(machine.handle(.contextReady)) == [])
        #expect(names(machine.handle(.peerAppended(from: 2))) == [])
        #expect(names(machine.handle(.peerAppended(from: 0))) == ["reply 0"])
        #expect(machine.isFinished)
    }

    @Test(
        "a rank that refuses leaves none of its group with the tokens, in any order",
        arguments: 0..<200 as Range<UInt64>)
    func refusal(number: UInt64) throws {
        var generator = SeededGenerator.ofRun(salt: number)
        let test = StepCase(ranks: 3, queryMode: .absent)
        var group = try Group(test)
        let refusing = Int.random(in: 0..<3, using: &generator)
        while case let choices = group.choices, !choices.isEmpty {
            let (rank, choice) = choices[Int.random(in: 0..<choices.count, using: &generator)]
            guard rank == refusing, case .computation = choice else {
                try group.take(rank, choice)
                continue
            }
            group.members[rank].computations = []
            try group.deliver(.appendFailed(ServiceError(.invalidRequest, "NaN.")), to: rank)
        }
        for member in group.members {
            #expect(member.outcome.replies.isEmpty, "seed \(SeededGenerator.seed), \(number)")
            #expect(member.outcome.verdicts.map(\.code) == [.invalidRequest] && member.outcome.rollBacks == 1)
            #expect(member.machine.isFinished)
        }
    }

    @Test("the deadline names the ranks that have not appended")
    func deadline() throws {
        var machine = try machine()
        _ = machine.start(none) + machine.handle(.contextReady)
        _ = machine.handle(.appended) + machine.handle(.peerAppended(from: 0))
        guard case .fail(let error)? = machine.handle(.expired).last else {
            Issue.record("It did not fail.")
            return
        }
        #expect(error.code == .deadlineExceeded && error.message.contains("the append of context rank 2"))
    }

    @Test("a failed append is the group's verdict, and appended tokens are rolled back")
    func failed() throws {
        var machine = try machine()
        _ = machine.start(none)
        _ = machine.handle(.contextReady)
        let actions = machine.handle(.appendFailed(ServiceError(.overloaded, "Full.")))
        #expect(names(actions) == ["abort 0", "abort 2", "roll back", "fail overloaded"])
        #expect(machine.isFinished)
    }

    @Test("another rank's verdict takes a running append back when it has ended", arguments: [true, false])
    func aborted(whileRunning: Bool) throws {
        var machine = try machine()
        _ = machine.start(none)
        if whileRunning { _ = machine.handle(.contextReady) }
        let actions = names(machine.handle(.aborted(ServiceError(.storeFull, "Full."))))
        #expect(actions == (whileRunning ? ["fail store full"] : ["roll back", "fail store full"]))
        if whileRunning {
            #expect(!machine.isFinished)
            #expect(names(machine.handle(.appended)) == ["roll back"])
        }
        #expect(machine.isFinished)
    }

    @Test("it brings no queries")
    func plan() throws {
        let plan = try StepCase(ranks: 3, queryMode: .absent).plan(ofRank: 1)
        #expect(!plan.hasContext && plan.needsGroup && plan.ownHeads.isEmpty)
        let shape = try ModelDescription(
            layers: 1, queryHeads: 4, kvHeads: 2, keyDim: 8, valueDim: 8, scale: 1, softcap: nil, kvFormat: .float32)
        let cluster = try ClusterShape(
            ranks: 3, headGroups: 1, interleave: 1, blockTokens: 16, exchange: .allToAll)
        var request = StepRequest(
            model: ModelID(1), queryMode: .absent, wantsLSE: false, timeoutMilliseconds: 1,
            entries: [.init(sequence: SequenceID(1), position: 5, count: 2)], queryDataType: .float32,
            keyValueDataType: .float32, queryHeads: 0, kvHeads: 2, keyDim: 8, valueDim: 8, keyValueTokens: 1,
            tensors: ByteBuffer())
        let model = ModelRecord(id: ModelID(1), name: "m", description: shape)
        _ = try StepPlan(request, layer: 0, model: model, cluster: cluster, rank: RankIndex(0))
        request.queryHeads = 2
        let error = #expect(throws: ServiceError.self) {
            try StepPlan(request, layer: 0, model: model, cluster: cluster, rank: RankIndex(0))
        }
        #expect(error?.code == .invalidRequest && error?.message.contains("needs 0") == true)
    }
}
