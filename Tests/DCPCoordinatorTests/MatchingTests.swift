// SPDX-License-Identifier: Apache-2.0

import DCPCoordinator
import DCPCore
import DCPWire
import Testing

@Suite("Opening by token ids")
struct MatchingTests {
    /// Two sequences of a model, `s` (1) and, in a scope, `t` (2).
    private func ready(ranks: Int = 3) throws -> Driver {
        var driver = try Driver(ranks: ranks)
        driver.becomeReady()
        _ = try driver.carry(.registerModel(name: "m", shape()))
        driver.confirm(
            driver.send(many: [
                OpenSequence(name: "s", model: "m", create: true),
                OpenSequence(name: "t", model: "m", scope: "tenant", create: true),
            ]))
        return driver
    }

    private func open(_ name: String, scope: String = "", lengthMax: Int = 100) -> OpenMatching {
        OpenMatching(name: name, model: "m", revision: "", scope: scope, ids: [1, 2, 3], lengthMax: lengthMax)
    }

    private typealias Sent = (number: UInt64, link: LinkID)

    private func questions(_ actions: [CoordinatorMachine.Action]) -> [(question: MatchQuestion, sent: Sent)] {
        actions.compactMap { action in
            guard case .send(.matchRequest(let question), let number, let link) = action else { return nil }
            return (question, (number, link))
        }
    }

    private func lengthQuestions(_ actions: [CoordinatorMachine.Action]) -> [Sent] {
        actions.compactMap { action in
            guard case .send(.lengthsRequest, let number, let link) = action else { return nil }
            return (number, link)
        }
    }

    private func answers(_ actions: [CoordinatorMachine.Action]) -> [Result<MatchedSequence, ServiceError>] {
        actions.flatMap { action -> [Result<MatchedSequence, ServiceError>] in
            guard case .answer(.reply(let body), _, _) = action else { return [] }
            return (try? body.reply(to: Many<OpenMatching>.self).answers) ?? []
        }
    }

    private func found(_ driver: inout Driver, _ sent: Sent, _ id: UInt64?, _ length: Int = 0) -> [CoordinatorMachine
        .Action]
    {
        driver.on {
            $0.matched(
                sent.link, number: sent.number, id.map { HeldLength(sequence: SequenceID($0), length: length) },
                now: .zero)
        }
    }

    private func held(_ driver: inout Driver, _ sent: Sent, _ id: UInt64, _ length: Int?) -> [CoordinatorMachine.Action]
    {
        let lengths = length.map { [HeldLength(sequence: SequenceID(id), length: $0)] } ?? []
        return driver.on { $0.lengths(sent.link, number: sent.number, lengths, now: .zero) }
    }

    @Test("one rank searches, all say how much they have, and the fork has the least; its claim comes with it")
    func forked() throws {
        var driver = try ready()
        let asked = questions(driver.send(many: [open("new")]))
        #expect(asked.count == 1 && asked[0].question.ids == [1, 2, 3] && asked[0].question.model == ModelID(1))
        let lengths = lengthQuestions(found(&driver, asked[0].sent, 1, 30))
        #expect(lengths.map(\.link) == (0..<3).map { Driver.link($0) })
        #expect(held(&driver, lengths[0], 1, 30).isEmpty && held(&driver, lengths[1], 1, 20).isEmpty)
        #expect(held(&driver, lengths[1], 1, 5).isEmpty, "a rank is asked once")
        let forked = held(&driver, lengths[2], 1, 40)
        #expect(kinds(forked).first == "persist")
        #expect(
            operations(forked).map(\.operation)
                == Array(
                    repeating: .fork(parent: SequenceID(1), child: SequenceID(3), length: 20, name: "new"), count: 3))
        let before = driver.actions.count
        driver.confirm(forked)
        let answer = try #require(answers(Array(driver.actions[before...])).first).get()
        #expect(answer.sequence.name == "new" && answer.length == 20 && answer.claim != .none)
        // The claim is the latest one: a request with it is accepted.
        let cut = driver.send(many: [TruncateSequence(name: "new", length: 1, claim: answer.claim)])
        #expect(errors(cut).isEmpty && !operations(cut).isEmpty)
    }

    @Test(
        "with nothing stored, or a length of 0, an empty sequence is opened in the scope; never longer than asked for")
    func empty() throws {
        var driver = try ready()
        for (index, length) in [nil, 0].enumerated() {
            let asked = questions(driver.send(many: [open("new-\(index)", scope: "tenant")]))
            #expect(asked[0].question.scope == "tenant")
            let opened = found(&driver, asked[0].sent, length == nil ? nil : 2, length ?? 0)
            #expect(
                operations(opened).allSatisfy {
                    if case .open(let new) = $0.operation { new.scope == "tenant" } else { false }
                })
            let before = driver.actions.count
            driver.confirm(opened)
            #expect(try #require(answers(Array(driver.actions[before...])).first).get().length == 0)
        }
        let asked = questions(driver.send(many: [open("short", lengthMax: 7)]))
        let lengths = lengthQuestions(found(&driver, asked[0].sent, 1, 30))
        let forked = lengths.flatMap { held(&driver, $0, 1, 30) }
        #expect(
            operations(forked).first?.operation
                == .fork(parent: SequenceID(1), child: SequenceID(5), length: 7, name: "short"))
    }

    @Test("sequences that are closed, closing, of another scope, or missing on a rank are skipped in the search")
    func gone() throws {
        var driver = try ready()
        var asked = questions(driver.send(many: [open("new")]))
        // Of another scope than was asked for.
        asked = questions(found(&driver, asked[0].sent, 2, 30))
        #expect(asked[0].question.excluding == [SequenceID(2)])
        // Not there.
        asked = questions(found(&driver, asked[0].sent, 99, 30))
        #expect(asked[0].question.excluding == [SequenceID(2), SequenceID(99)])
        // The sequence is closed while ranks report their lengths, or is missing on one of them.
        let lengths = lengthQuestions(found(&driver, asked[0].sent, 1, 30))
        let again = questions(held(&driver, lengths[0], 1, nil))
        #expect(again[0].question.excluding == [SequenceID(2), SequenceID(99), SequenceID(1)])
        #expect(held(&driver, lengths[1], 1, 30).isEmpty, "that search is over")
        driver.confirm(found(&driver, again[0].sent, nil))
        #expect(driver.machine.state.sequences.values.contains { $0.record.name == "new" })
    }

    @Test("a parent that is closed between search and fork is passed over")
    func closedMeanwhile() throws {
        var driver = try ready(ranks: 2)
        let asked = questions(driver.send(many: [open("new")]))
        let lengths = lengthQuestions(found(&driver, asked[0].sent, 1, 30))
        _ = driver.ask(.close(name: "s"))
        #expect(held(&driver, lengths[0], 1, 30).isEmpty)
        #expect(questions(held(&driver, lengths[1], 1, 30))[0].question.excluding == [SequenceID(1)])
    }

    @Test("a model that is removed during the search gets no sequence")
    func removedModel() throws {
        var driver = try Driver()
        driver.becomeReady()
        _ = try driver.carry(.registerModel(name: "m", shape()))
        let asked = questions(driver.send(many: [open("new")]))
        _ = try driver.carry(.removeModel(name: "m"))
        #expect(errors(found(&driver, asked[0].sent, nil)).map(\.code) == [.unknownModel])
        #expect(driver.machine.state.sequences.isEmpty)
    }

    @Test("names, models, revisions and scopes are checked first; a rank that is lost or cannot search is reported")
    func refusals() throws {
        var driver = try ready()
        func code(_ request: OpenMatching) -> ServiceError.Code? { errors(driver.send(many: [request])).first?.code }
        #expect(code(open("s")) == .conflict)
        #expect(code(open("")) == .invalidRequest)
        #expect(
            code(OpenMatching(name: "n", model: "x", revision: "", scope: "", ids: [], lengthMax: 0)) == .unknownModel)
        #expect(
            code(OpenMatching(name: "n", model: "m", revision: "r", scope: "", ids: [], lengthMax: 0)) == .modelMismatch
        )
        let asked = questions(driver.send(many: [open("a")]))
        let busy = ServiceError(.overloaded, "Too many readers.")
        let refused = driver.on { $0.operationFailed(asked[0].sent.link, number: asked[0].sent.number, busy) }
        #expect(errors(refused).map(\.code) == [.overloaded])
        _ = driver.send(many: [open("b")])
        let lost = driver.on { $0.linkClosed(Driver.link(1), reason: ServiceError(.rankUnavailable, "Gone.")) }
        #expect(errors(lost).map(\.code) == [.rankUnavailable])
        #expect(driver.machine.state.sequences.count == 2, "nothing was made")
    }
}
