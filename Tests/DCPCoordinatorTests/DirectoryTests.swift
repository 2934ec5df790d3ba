// SPDX-License-Identifier: Apache-2.0

import DCPCoordinator
import DCPCore
import DCPWire
import Testing

@Suite("CoordinatorMachine: the directory")
struct DirectoryTests {
    private func ready(sequences: [String] = []) throws -> Driver {
        var driver = try Driver()
        driver.becomeReady()
        _ = try driver.carry(.registerModel(name: "m", try shape()))
        for name in sequences {
            _ = try driver.carry(.openSequence(name: name, model: "m", revision: "", create: true))
        }
        return driver
    }

    private func close(_ driver: inout Driver, _ rank: UInt16) -> [CoordinatorMachine.Action] {
        driver.on { $0.linkClosed(Driver.link(rank), reason: ServiceError(.rankUnavailable, "gone")) }
    }

    @Test("every change is recorded before it is sent, and answered when all ranks have confirmed")
    func recordedFirst() throws {
        var driver = try ready(sequences: ["s"])
        for request in [
            .registerModel(name: "n", try shape(queryHeads: 4)),
            .openSequence(name: "t", model: "m", revision: "", create: true),
            .truncate(name: "s", length: 3), .fork(name: "s", newName: "u", length: 2), .close(name: "s"),
            .removeModel(name: "n"),
        ] as [DirectoryRequest] {
            let sent = driver.ask(request)
            #expect(kinds(sent) == ["persist", "send operation", "send operation"], "\(request)")
            let carried = operations(sent)
            #expect(carried.map(\.link) == [Driver.link(0), Driver.link(1)])
            let first = driver.on { $0.operationDone(carried[0].link, number: carried[0].number) }
            #expect(replies(first).isEmpty && errors(first).isEmpty)
            let again = driver.on { $0.operationDone(carried[0].link, number: carried[0].number) }
            #expect(again.isEmpty, "a rank counts once")
            let last = driver.on { $0.operationDone(carried[1].link, number: carried[1].number) }
            #expect(replies(last).count == 1)
            if let persist = kinds(last).firstIndex(of: "persist") {
                #expect(persist < (try #require(kinds(last).firstIndex(of: "answer reply"))))
            }
        }
        #expect(driver.machine.state.models.values.map(\.name) == ["m"])
        #expect(driver.machine.state.sequences.values.map(\.record.name).sorted() == ["t", "u"])
        #expect(driver.machine.state.sequences.values.allSatisfy { $0.fork == nil && $0.truncateLength == nil })
    }

    @Test("models that a rank could not register with in one frame are refused, until others are removed")
    func modelRoom() throws {
        var driver = try ready()
        _ = try driver.carry(.registerModel(name: "a", largeShape()))
        let limit = ModelDescription.totalByteCountMax
        for _ in 0..<2 {
            let error = try driver.refusal(of: .registerModel(name: "b", largeShape()))
            #expect(error.code == .storeFull && error.message.contains("dcpctl model remove"))
            #expect(error.message.contains("\(limit)") && error.message.contains("the 2 registered models"))
            // A restart counts the same models.
            driver = Driver(restarting: driver)
            driver.becomeReady()
        }
        _ = try driver.carry(.registerModel(name: "a", largeShape()))
        _ = try driver.carry(.removeModel(name: "a"))
        _ = try driver.carry(.registerModel(name: "b", largeShape()))
        // Twice the limit, of a rank that has missed removals, and three of the longest texts.
        #expect(2 * limit + 3 * Int(UInt16.max) < FrameLimits().fieldsByteCountMax)
    }

    @Test("numbers are never given twice, also after a removal and a restart")
    func numbers() throws {
        var driver = try ready(sequences: ["s"])
        _ = try driver.carry(.close(name: "s"))
        _ = try driver.carry(.removeModel(name: "m"))
        var restarted = Driver(restarting: driver)
        restarted.becomeReady()
        #expect(try restarted.carry(.registerModel(name: "m", try shape())).models.map(\.id) == [ModelID(2)])
        let opened = try restarted.carry(.openSequence(name: "s", model: "m", revision: "", create: true))
        #expect(opened.sequences.map(\.id) == [SequenceID(2)])
    }

    @Test("a list comes in pages: each sequence that begins with the prefix once, with its model")
    func pages() throws {
        let names = ["b-1", "a-1", "b-2", "b-3", "c", "b-4", "b-5"]
        var driver = try ready(sequences: names)
        _ = driver.ask(.close(name: "b-3"))
        for count in 1...6 {
            var found: [String] = []
            var request = ListSequences(prefix: "b-", count: count)
            while true {
                let page = driver.machine.page(request)
                found += page.sequences.map(\.record.name)
                #expect(page.models.map(\.name) == (page.sequences.isEmpty ? [] : ["m"]))
                #expect(page.sequences.count == count || page.next == nil)
                guard let next = page.next else { break }
                request.after = next
            }
            #expect(found == ["b-1", "b-2", "b-4", "b-5"])
        }
        #expect(driver.machine.page(ListSequences()).sequences.count == 6)
        #expect(driver.machine.page(ListSequences(prefix: "x")).models.isEmpty)
    }

    @Test("a directory with as many sequences as a rank can register accepts no others until one is closed")
    func full() throws {
        var driver = try Driver(sequencesMax: 2)
        driver.becomeReady()
        _ = try driver.carry(.registerModel(name: "m", try shape()))
        for name in ["s", "t"] {
            _ = try driver.carry(.openSequence(name: name, model: "m", revision: "", create: true))
        }
        let open = DirectoryRequest.openSequence(name: "u", model: "m", revision: "", create: true)
        for request in [open, .fork(name: "s", newName: "u", length: 0)] {
            let error = try driver.refusal(of: request)
            #expect(error.code == .storeFull && error.message.contains("the limit is 2"), "\(error)")
        }
        #expect(try driver.carry(.openSequence(name: "s", model: "m", revision: "", create: true)).sequences.count == 1)
        _ = try driver.carry(.close(name: "s"))
        #expect(try driver.carry(open).sequences.map(\.name) == ["u"])
    }

    @Test("TRAPS 20, 21: a model is registered once; another shape under its name is refused with the differences")
    func models() throws {
        var driver = try ready()
        let same = driver.ask(.registerModel(name: "m", try shape()))
        #expect(replies(same).map { $0.models.map(\.id) } == [[ModelID(1)]] && operations(same).isEmpty)
        let error = try driver.refusal(of: .registerModel(name: "m", try shape(queryHeads: 4, softcap: 30)))
        #expect(error.code == .modelMismatch)
        #expect(error.message.contains("query heads: 4, not 8") && error.message.contains("soft cap: 30.0, not none"))
        #expect(!error.message.contains("KV heads"))
    }

    @Test("a model whose KV heads the head groups do not divide is refused; so is removing one in use, or none")
    func modelRefusals() throws {
        let shape = try ClusterShape(ranks: 4, headGroups: 4, interleave: 1, blockTokens: 16, exchange: .allToAll)
        var grouped = try Driver(ranks: 4)
        grouped.machine = CoordinatorMachine(state: CoordinatorState(shape: shape), lease: Driver.lease)
        grouped.becomeReady()
        let divide = try grouped.refusal(of: .registerModel(name: "m", try DCPCoordinatorTests.shape()))
        #expect(
            divide.code == .invalidModel && divide.message.contains("2 KV heads") && divide.message.contains("4 head"))
        var driver = try ready(sequences: ["s"])
        let used = try driver.refusal(of: .removeModel(name: "m"))
        #expect(used.code == .conflict && used.message.contains("`s`") && used.message.contains("1 sequences"))
        let unknown = try driver.refusal(of: .removeModel(name: "x"))
        #expect(unknown.code == .unknownModel && unknown.message.contains("`x`"))
    }

    @Test(
        "names have 1 to 255 bytes and no control characters",
        arguments: ["", "a\nb", "\u{7F}", String(repeating: "ü", count: 128)])
    func names(name: String) throws {
        var driver = try ready(sequences: ["s"])
        for request in [
            .registerModel(name: name, try shape()), .openSequence(name: name, model: "m", revision: "", create: true),
            .fork(name: "s", newName: name, length: 0),
        ] as [DirectoryRequest] {
            let error = try driver.refusal(of: request)
            #expect(error.code == .invalidRequest && error.message.contains("\(name.utf8.count) bytes"))
        }
        #expect(driver.machine.state.sequences.count == 1)
        _ = try driver.carry(
            .openSequence(name: String(repeating: "ü", count: 127), model: "m", revision: "", create: true))
    }

    @Test("opening: an open one is found, another model's is refused, an unknown one is made only when asked")
    func opening() throws {
        var driver = try ready(sequences: ["s"])
        for model in ["m", ""] {
            let found = driver.ask(.openSequence(name: "s", model: model, revision: "", create: true))
            #expect(replies(found).map { $0.sequences.map(\.name) } == [["s"]] && operations(found).isEmpty)
            #expect(replies(found)[0].models.map(\.name) == ["m"])
        }
        let other = try driver.refusal(of: .openSequence(name: "s", model: "x", revision: "", create: true))
        #expect(other.code == .modelMismatch && other.message.contains("`m`") && other.message.contains("`x`"))
        #expect(
            try driver.refusal(of: .openSequence(name: "t", model: "m", revision: "", create: false)).code
                == .unknownSequence)
        #expect(
            try driver.refusal(of: .openSequence(name: "t", model: "x", revision: "", create: true)).code
                == .unknownModel)
    }

    @Test("a sequence that is not there, or a new name that is, is refused")
    func sequences() throws {
        var driver = try ready(sequences: ["s"])
        for request in [.truncate(name: "x", length: 0), .close(name: "x"), .fork(name: "x", newName: "y", length: 0)]
            as [DirectoryRequest]
        {
            #expect(try driver.refusal(of: request).code == .unknownSequence)
        }
        #expect(try driver.refusal(of: .fork(name: "s", newName: "s", length: 0)).code == .conflict)
        // While it is being closed its name is neither there nor free.
        _ = driver.ask(.close(name: "s"))
        #expect(try driver.refusal(of: .close(name: "s")).code == .unknownSequence)
        #expect(
            try driver.refusal(of: .openSequence(name: "s", model: "m", revision: "", create: true)).code == .notReady)
        #expect(driver.machine.page(ListSequences()).sequences.isEmpty)
    }

    @Test("while the cluster is not ready lists are answered, and changes refused with the reason")
    func notReady() throws {
        var driver = try ready(sequences: ["s"])
        _ = close(&driver, 1)
        #expect(driver.machine.page(ListSequences()).models.map(\.name) == ["m"])
        #expect(driver.machine.page(ListSequences()).sequences.map(\.record.name) == ["s"])
        let error = try driver.refusal(of: .close(name: "s"))
        #expect(error.code == .notReady && error.isRetryable && error.message.contains("rank 1 missing"))
    }

    @Test(
        "a model or sequence that a rank refuses, finally or for now, is removed on all ranks; the client gets the error",
        arguments: [ServiceError.Code.invalidRequest, .storeFull])
    func refused(code: ServiceError.Code) throws {
        for request in [
            .registerModel(name: "n", try shape(queryHeads: 4)),
            .openSequence(name: "t", model: "m", revision: "", create: true),
        ] as [DirectoryRequest] {
            var driver = try ready(sequences: ["s"])
            let before = driver.machine.state
            let carried = operations(driver.ask(request))
            let error = ServiceError(code, "No.", rank: RankIndex(0))
            driver.on { $0.operationFailed(carried[0].link, number: carried[0].number, error) }
            let last = driver.on { $0.operationDone(carried[1].link, number: carried[1].number) }
            #expect(errors(last) == [error])
            #expect(operations(last).count == 2)
            // Until every rank has removed it, no client learns that it existed.
            driver.confirm(last)
            #expect(before.models == driver.machine.state.models)
            #expect(before.sequences == driver.machine.state.sequences)
        }
    }

    @Test("a truncation that a rank refuses finally is no longer owed")
    func refusedTruncation() throws {
        var driver = try ready(sequences: ["s"])
        let carried = operations(driver.ask(.truncate(name: "s", length: 3)))
        let error = ServiceError(.invalidRequest, "It has 2 tokens.", rank: RankIndex(0))
        driver.on { $0.operationFailed(carried[0].link, number: carried[0].number, error) }
        let last = driver.on { $0.operationDone(carried[1].link, number: carried[1].number) }
        #expect(errors(last) == [error])
        let entry = try #require(driver.machine.state.sequences.values.first)
        #expect(entry.truncateLength == nil)
        // The other rank has cut it.
        #expect(entry.history.shortest(since: driver.machine.state.epoch) == 3)
    }

    @Test(
        "a truncation or close that a rank cannot do now is sent again at the next tick, and the client waits for it",
        arguments: [DirectoryRequest.truncate(name: "s", length: 3), .close(name: "s")])
    func postponed(request: DirectoryRequest) throws {
        var driver = try ready(sequences: ["s"])
        let carried = operations(driver.ask(request))
        driver.on { $0.operationDone(carried[1].link, number: carried[1].number) }
        let error = ServiceError(.overloaded, "The queue is full.", rank: RankIndex(0))
        let refused = driver.on { $0.operationFailed(carried[0].link, number: carried[0].number, error) }
        #expect(errors(refused).isEmpty && replies(refused).isEmpty)
        let again = operations(driver.on { $0.tick(now: .zero) })
        #expect(again.map(\.number) == [carried[0].number] && again.map(\.link) == [carried[0].link])
        let last = driver.on { $0.operationDone(again[0].link, number: again[0].number) }
        #expect(replies(last).count == 1)
    }

    @Test("a second client that opens a sequence which is still being made waits for the ranks like the first")
    func openedTwiceAtOnce() throws {
        var driver = try ready()
        let carried = operations(driver.ask(.openSequence(name: "t", model: "m", revision: "", create: true)))
        let second = driver.ask(.openSequence(name: "t", model: "m", revision: "", create: true))
        #expect(replies(second).isEmpty && operations(second).isEmpty)
        driver.on { $0.operationDone(carried[0].link, number: carried[0].number) }
        let last = driver.on { $0.operationDone(carried[1].link, number: carried[1].number) }
        #expect(replies(last).map { $0.sequences.map(\.name) } == [["t"], ["t"]])
    }

    @Test("a fork that one rank refuses is closed again on all of them, and then forgotten")
    func refusedFork() throws {
        var driver = try ready(sequences: ["s"])
        let carried = operations(driver.ask(.fork(name: "s", newName: "u", length: 9)))
        driver.on { $0.operationDone(carried[0].link, number: carried[0].number) }
        let error = ServiceError(.invalidRequest, "It has 5 tokens.")
        let last = driver.on { $0.operationFailed(carried[1].link, number: carried[1].number, error) }
        #expect(errors(last) == [error])
        #expect(operations(last).map(\.operation) == [.close(SequenceID(2)), .close(SequenceID(2))])
        driver.confirm(last)
        #expect(driver.machine.state.sequences.keys.map(\.value) == [1])
    }

    /// A model that rank 0 refuses and rank 1 takes, and a sequence that a client opens meanwhile.
    private func refusedModel() throws -> (driver: Driver, sent: [CoordinatorMachine.Action]) {
        var driver = try Driver()
        driver.becomeReady()
        let puts = operations(driver.send(.registerModel(name: "m", try shape())))
        #expect(operations(driver.send(.openSequence(name: "s", model: "m", revision: "", create: true))).isEmpty)
        let full = ServiceError(.storeFull, "Full.", rank: RankIndex(0))
        let first = driver.on { $0.operationFailed(puts[0].link, number: puts[0].number, full) }
        let last = driver.on { $0.operationDone(puts[1].link, number: puts[1].number) }
        #expect(driver.machine.state.models.isEmpty)
        return (driver, first + last)
    }

    @Test("a sequence of a model that a rank refuses is closed everywhere before the model is removed")
    func refusedModelInUse() throws {
        let (made, sent) = try refusedModel()
        var driver = made
        let opens = operations(sent).sorted { $0.link.value < $1.link.value }
        let record = SequenceRecord(id: SequenceID(1), name: "s", model: ModelID(1))
        #expect(opens.map(\.operation) == [.open(record), .open(record)])
        let unknown = ServiceError(.unknownModel, "It is not there.", rank: RankIndex(0))
        driver.on { $0.operationFailed(opens[0].link, number: opens[0].number, unknown) }
        let last = driver.on { $0.operationDone(opens[1].link, number: opens[1].number) }
        #expect(errors(last) == [unknown])
        driver.confirm(last)
        #expect(driver.machine.state.sequences.isEmpty)
        for rank in 0..<2 as Range<UInt16> {
            let asked = operations(driver.actions).filter { $0.link == Driver.link(rank) }.map(\.operation)
            #expect(asked.suffix(2) == [.close(SequenceID(1)), .removeModel(ModelID(1))])
        }
    }

    @Test("a sequence of a model that a rank has refused is gone after a restart of the coordinator, too")
    func refusedModelRestarted() throws {
        let (driver, _) = try refusedModel()
        let entry = try #require(driver.machine.state.sequences[SequenceID(1)])
        #expect(entry.isClosing)
        var again = Driver(restarting: driver)
        again.becomeReady()
        #expect(again.machine.phase == .ready && again.machine.state.sequences.isEmpty)
        _ = try again.carry(.registerModel(name: "m", try shape()))
        #expect(try again.carry(.openSequence(name: "s", model: "m", revision: "", create: true)).sequences.count == 1)
    }

    @Test(
        "a rank lost during an operation: the error names it and is retryable, and the rejoin completes the operation")
    func lostDuring() throws {
        var driver = try ready(sequences: ["s"])
        let carried = operations(driver.ask(.truncate(name: "s", length: 3)))
        driver.on { $0.operationDone(carried[0].link, number: carried[0].number) }
        let told = errors(close(&driver, 1))
        #expect(told.map(\.code) == [.rankUnavailable] && told[0].isRetryable)
        #expect(told[0].rank == RankIndex(1) && told[0].message.contains("rank 1"))
        // Its late answer is ignored.
        #expect(driver.on { $0.operationDone(Driver.link(1), number: carried[1].number) }.isEmpty)
        let from = driver.actions.count
        let record = try #require(driver.machine.state.models[ModelID(1)])
        _ = close(&driver, 0)
        driver.becomeReady(models: [record], lengths: [[SequenceID(1): 3], [SequenceID(1): 8]])
        let rejoin = operations(driver.actions[from...])
        #expect(rejoin.map(\.operation) == [.truncate(SequenceID(1), length: 3)])
        #expect(rejoin.map(\.link) == [Driver.link(1)])
        #expect(driver.machine.phase == .ready && driver.machine.state.sequences[SequenceID(1)]?.truncateLength == nil)
    }

    @Test("a client that disconnects during an operation gets no answer; the operation continues")
    func clientGone() throws {
        var driver = try ready()
        let sent = driver.ask(.openSequence(name: "t", model: "m", revision: "", create: true))
        driver.on { $0.linkClosed(Driver.client, reason: ServiceError(.rankUnavailable, "gone")) }
        let from = driver.actions.count
        driver.confirm(sent)
        #expect(replies(driver.actions[from...]).isEmpty && driver.machine.state.sequences.count == 1)
    }
}
