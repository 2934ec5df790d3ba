import DCPAttention
import DCPCore
import DCPRank
import DCPWire
import NIOCore
import Testing

/// Steps without queries: the tokens are appended, and nothing is computed or exchanged.
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
            case .reply(let states): "reply \(states.rows)"
            case .fail(let error): "fail \(error.code)"
            case .sendAbort(_, let member): "abort \(member)"
            case .rollBack: "roll back"
            default: "\($0)"
            }
        }
    }

    @Test("it waits for the tokens before it, appends, and replies without an output")
    func inOrder() throws {
        var machine = try machine()
        #expect(names(machine.start(none)) == [])
        #expect(names(machine.handle(.contextReady)) == ["append"])
        #expect(!machine.isOver)
        #expect(names(machine.handle(.appended)) == ["reply 0"])
        #expect(machine.isFinished)
    }

    @Test("a repeat, whose tokens are in place, replies at once")
    func repeated() throws {
        var machine = try machine(appends: false)
        #expect(names(machine.start(none)) == ["reply 0"])
        #expect(names(machine.handle(.contextReady)) == [] && machine.isFinished)
    }

    @Test("a failed append is the group's verdict, and what is there is taken back")
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

    @Test("it needs no peer, and brings no queries")
    func plan() throws {
        let plan = try StepCase(ranks: 3, queryMode: .absent).plan(ofRank: 1)
        #expect(!plan.hasContext && plan.ownHeads.isEmpty)
        let shape = try ModelDescription(
            layers: 1, queryHeads: 4, kvHeads: 2, keyDim: 8, valueDim: 8, scale: 1, softcap: nil, kvDataType: .float32)
        let cluster = try ClusterShape(
            ranks: 3, headGroups: 1, interleave: 1, blockTokens: 16, exchange: .allToAll)
        var request = StepRequest(
            model: ModelID(1), queryMode: .absent, wantsLSE: false, timeoutMilliseconds: 1,
            entries: [.init(sequence: SequenceID(1), position: 5, count: 2)], queryDataType: .float32,
            keyValueDataType: .float32, queryHeads: 0, kvHeads: 2, keyDim: 8, valueDim: 8, queries: ByteBuffer(),
            keys: ByteBuffer(), values: ByteBuffer())
        let model = ModelRecord(id: ModelID(1), name: "m", description: shape)
        _ = try StepPlan(request, layer: 0, model: model, cluster: cluster, rank: RankIndex(0))
        request.queryHeads = 2
        let error = #expect(throws: ServiceError.self) {
            try StepPlan(request, layer: 0, model: model, cluster: cluster, rank: RankIndex(0))
        }
        #expect(error?.code == .invalidRequest && error?.message.contains("needs 0") == true)
    }
}
