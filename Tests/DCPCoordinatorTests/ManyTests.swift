// SPDX-License-Identifier: Apache-2.0

import DCPCoordinator
import DCPCore
import DCPWire
import Testing

@Suite("Many things in one request")
struct ManyTests {
    private func ready() throws -> Driver {
        var driver = try Driver()
        driver.becomeReady()
        _ = try driver.carry(.registerModel(name: "m", shape()))
        _ = try driver.carry(.openSequence(name: "s", model: "m", revision: "", create: true))
        return driver
    }

    private func answers<Item: RequestItem>(
        _ actions: [CoordinatorMachine.Action], to item: Item.Type
    ) -> [[Result<Item.Answer, ServiceError>]] {
        actions.compactMap { action in
            guard case .answer(.reply(let body), _, _) = action else { return nil }
            return try? body.reply(to: Many<Item>.self).answers
        }
    }

    @Test("answers that are more than a frame are a failure with both numbers, and what was asked for is done")
    func moreThanAFrame() throws {
        var driver = try ready()
        _ = try driver.carry(.registerModel(name: "large", largeShape()))
        let sent = driver.send(
            many: (0..<4).map { OpenSequence(name: "l\($0)", model: "large", revision: "", create: true) })
        var said: [CoordinatorMachine.Action] = []
        for (_, number, link) in operations(sent) { said += driver.on { $0.operationDone(link, number: number) } }
        let failures = errors(said)
        #expect(failures.map(\.code) == [.invalidRequest] && answers(said, to: OpenSequence.self).isEmpty)
        #expect(failures.first?.message.contains("\(16 << 20)") == true)
        #expect(driver.machine.state.sequences.count == 5)
        let few = driver.send(
            many: (0..<3).map { OpenSequence(name: "l\($0)", model: "large", revision: "", create: false) })
        #expect(answers(few, to: OpenSequence.self).map(\.count) == [3])
    }

    @Test("32 forks are recorded together, and answered together when the last is confirmed")
    func forks() throws {
        var driver = try ready()
        let claim = try driver.taken("s")
        let sent = driver.send(
            many: (0..<32).map { ForkSequence(name: "s", newName: "f\($0)", length: 0, claim: claim) })
        #expect(kinds(sent).filter { $0 == "persist" }.count == 1 && kinds(sent).first == "persist")
        #expect(operations(sent).count == 64)
        var said: [CoordinatorMachine.Action] = []
        for (_, number, link) in operations(sent) {
            #expect(answers(said, to: ForkSequence.self).isEmpty)
            said += driver.on { $0.operationDone(link, number: number) }
        }
        let replies = answers(said, to: ForkSequence.self)
        #expect(replies.count == 1)
        #expect(try replies[0].map { try $0.get().name } == (0..<32).map { "f\($0)" })
        #expect(driver.machine.state.sequences.values.allSatisfy { $0.fork == nil })
    }

    @Test("an item that is refused does not undo the others, and its place in the reply says why")
    func refusals() throws {
        var driver = try ready()
        let names = ["a", "s", "", "b"]
        let sent = driver.send(many: names.map { OpenSequence(name: $0, model: "m", create: true) })
        #expect(answers(sent, to: OpenSequence.self).isEmpty)
        driver.confirm(sent)
        let reply = try #require(answers(driver.actions, to: OpenSequence.self).last)
        #expect(try reply[0].get().sequence.name == "a" && reply[1].get().sequence.id == SequenceID(1))
        #expect(try reply[3].get().sequence.name == "b")
        guard case .failure(let error) = reply[2] else {
            Issue.record("an empty name was taken")
            return
        }
        #expect(error.code == .invalidRequest)
        #expect(driver.machine.state.sequences.values.map(\.record.name).sorted() == ["a", "b", "s"])
    }

    @Test(
        "an item that a rank refuses is rolled back alone; a lost rank fails the waiting items, and the reply has all")
    func refusedByRank() throws {
        var driver = try ready()
        let sent = operations(driver.send(many: ["a", "b"].map { OpenSequence(name: $0, model: "m", create: true) }))
        let refusal = ServiceError(.storeFull, "Full.", rank: RankIndex(1))
        let first = sent.filter { if case .open(let new) = $0.operation { new.id == SequenceID(2) } else { false } }
        driver.on { $0.operationFailed(first[1].link, number: first[1].number, refusal) }
        driver.on { $0.operationDone(first[0].link, number: first[0].number) }
        #expect(answers(driver.actions, to: OpenSequence.self).last?.count == 1, "only the setup's own")
        let lost = driver.on { $0.linkClosed(Driver.link(0), reason: ServiceError(.rankUnavailable, "Gone.")) }
        let reply = try #require(answers(lost, to: OpenSequence.self).last)
        let codes = reply.map { answer -> ServiceError.Code? in
            if case .failure(let error) = answer { error.code } else { nil }
        }
        #expect(codes == [.storeFull, .rankUnavailable])
    }

    @Test("the answers of a client that is gone are not kept, and a request for nothing is answered at once")
    func gone() throws {
        var driver = try ready()
        let sent = driver.send(many: [OpenSequence(name: "a", model: "m", create: true)])
        driver.on { $0.linkClosed(Driver.client, reason: ServiceError(.rankUnavailable, "Gone.")) }
        let before = driver.actions.count
        driver.confirm(sent)
        #expect(answers(Array(driver.actions[before...]), to: OpenSequence.self).isEmpty)
        #expect(answers(driver.send(many: [OpenSequence]()), to: OpenSequence.self).map(\.count) == [0])
    }

    @Test("a sequence's scope never changes, its forks have it, and another is refused with both")
    func scopes() throws {
        var driver = try ready()
        driver.confirm(driver.send(many: [OpenSequence(name: "t", model: "m", scope: "tenant", create: true)]))
        let claim = try driver.taken("t")
        driver.confirm(driver.send(many: [ForkSequence(name: "t", newName: "u", length: 0, claim: claim)]))
        #expect(driver.machine.page(ListSequences()).sequences.map(\.record.scope) == ["", "tenant", "tenant"])
        let other = driver.send(many: [OpenSequence(name: "u", model: "m", scope: "other", create: true)])
        let error = try #require(errors(other).first)
        #expect(error.code == .conflict && error.message.contains("`tenant`") && error.message.contains("`other`"))
        #expect(errors(driver.send(many: [OpenSequence(name: "u", model: "", create: false)])).isEmpty)
        let long = String(repeating: "x", count: 256)
        let refused = driver.send(many: [OpenSequence(name: "v", model: "m", scope: long, create: true)])
        #expect(errors(refused).first?.message.contains("256") == true)
    }
}
