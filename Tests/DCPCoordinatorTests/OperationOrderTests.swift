// SPDX-License-Identifier: Apache-2.0

import DCPCoordinator
import DCPCore
import DCPTestKit
import DCPWire
import Testing

@Suite("CoordinatorMachine: the order in which a rank carries operations out")
struct OperationOrderTests {
    private static let full = ServiceError(
        .overloaded,
        "1 writes are waiting for the store, which is the limit; retry.")
    private let s = SequenceID(1), t = SequenceID(2)

    /// Two ranks, ready, with these sequences of model `m`.
    private func ready(_ names: [String]) throws -> Driver {
        var driver = try Driver()
        driver.becomeReady()
        _ = try driver.carry(.registerModel(name: "m", try shape()))
        for name in names { _ = try driver.carry(.openSequence(name: name, model: "m", revision: "", create: true)) }
        return driver
    }

    /// Both ranks register again, with these lengths; returns the first operations sent to them.
    private func join(_ driver: inout Driver, _ lengths: [SequenceID: Int]) throws -> [CoordinatorMachine.Action] {
        for rank in 0..<2 as Range<UInt16> {
            driver.on { $0.linkClosed(Driver.link(rank), reason: ServiceError(.rankUnavailable, "gone")) }
        }
        for rank in 0..<2 as Range<UInt16> { driver.register(rank, epoch: driver.machine.state.epoch) }
        let epoch = driver.machine.state.epoch
        let model = try #require(driver.machine.state.models[ModelID(1)])
        return driver.register(0, epoch: epoch, models: [model], lengths: lengths)
            + driver.register(1, epoch: epoch, models: [model], lengths: lengths)
    }

    private func sent(_ actions: [CoordinatorMachine.Action], to rank: UInt16) -> [DirectoryOperation] {
        operations(actions).filter { $0.link == Driver.link(rank) }.map(\.operation)
    }

    private func number(_ actions: [CoordinatorMachine.Action], to rank: UInt16) throws -> UInt64 {
        try #require(operations(actions).first { $0.link == Driver.link(rank) }).number
    }

    @Test("a truncation waits for the preceding fork, which is sent again, and those of other sequences overtake it")
    func postponed() throws {
        var driver = try ready(["s", "other"])
        let claim = try driver.taken("s"), other = try driver.taken("other")
        _ = driver.send(.fork(name: "s", newName: "t", length: 8, claim: claim))
        _ = driver.send(.truncate(name: "s", length: 2, claim: claim))
        _ = driver.send(.truncate(name: "other", length: 2, claim: other))
        let child = SequenceID(3)
        let actions = try join(&driver, [s: 10, t: 10])
        let fork = DirectoryOperation.fork(parent: s, child: child, length: 8, name: "t")
        #expect(sent(actions, to: 0) == [fork, .truncate(t, length: 2)])
        let number = try number(actions, to: 0)
        let refused = driver.on { $0.operationFailed(Driver.link(0), number: number, Self.full) }
        #expect(operations(refused).isEmpty)
        let again = driver.on { [now = driver.now] in $0.tick(now: now) }
        #expect(sent(again, to: 0) == [fork])
        let done = driver.on { $0.operationDone(Driver.link(0), number: number) }
        #expect(sent(done, to: 0) == [.truncate(s, length: 2)])
    }

    @Test("also while the cluster is ready: what one rank refuses holds back what builds on it until it is over")
    func refusedWhileReady() throws {
        var driver = try ready(["s"])
        let claim = try driver.taken("s")
        let forked = driver.send(.fork(name: "s", newName: "t", length: 8, claim: claim))
        let cut = driver.send(.truncate(name: "s", length: 2, claim: claim))
        #expect(operations(cut).isEmpty)
        let number = try number(forked, to: 0)
        let refused = driver.on {
            $0.operationFailed(Driver.link(0), number: number, ServiceError(.storeFull, "no room"))
        }
        #expect(operations(refused).isEmpty)
        let done = driver.on { $0.operationDone(Driver.link(1), number: number) }
        for rank in 0..<2 as Range<UInt16> {
            #expect(Set(sent(done, to: rank)) == [.truncate(s, length: 2), .close(t)])
        }
        #expect(errors(done).map(\.code) == [.storeFull])
    }

    @Test("a rank that has too much to write gets the operation again, invisibly to the client")
    func overloadedWhileReady() throws {
        var driver = try ready(["s"])
        let forked = driver.ask(.fork(name: "s", newName: "t", length: 8))
        let number = try number(forked, to: 0)
        driver.on { $0.operationDone(Driver.link(1), number: number) }
        let refused = driver.on { $0.operationFailed(Driver.link(0), number: number, Self.full) }
        #expect(errors(refused).isEmpty)
        let again = driver.on { [now = driver.now] in $0.tick(now: now) }
        #expect(sent(again, to: 0).count == 1)
        let done = driver.on { $0.operationDone(Driver.link(0), number: number) }
        #expect(replies(done).count == 1)
    }

    @Test("an answer to what was not asked, or was answered already, changes nothing")
    func strayAnswers() throws {
        var driver = try ready(["s"])
        let claim = try driver.taken("s")
        let forked = driver.send(.fork(name: "s", newName: "t", length: 8, claim: claim))
        driver.send(.truncate(name: "s", length: 2, claim: claim))
        let number = try number(forked, to: 0)
        // The truncation's, which waits.
        let early = driver.on { $0.operationDone(Driver.link(0), number: number + 1) }
        let done = driver.on { $0.operationDone(Driver.link(0), number: number) }
        let again = driver.on { $0.operationDone(Driver.link(0), number: number) }
        let failed = driver.on { $0.operationFailed(Driver.link(0), number: number, Self.full) }
        #expect(early.isEmpty && again.isEmpty && failed.isEmpty)
        #expect(sent(done, to: 0) == [.truncate(s, length: 2)])
    }

    @Test(
        "at most a window of operations is in flight to a rank, and a rank that can do nothing gets a window at each turn"
    )
    func window() throws {
        let count = 3000, window = 256
        var driver = try ready((0..<count).map { "s\($0)" })
        let lengths = Dictionary(uniqueKeysWithValues: (1...count).map { (SequenceID(UInt64($0)), 4) })
        // Rank 1 lacks them all.
        for rank in 0..<2 as Range<UInt16> {
            driver.on { $0.linkClosed(Driver.link(rank), reason: ServiceError(.rankUnavailable, "gone")) }
        }
        for rank in 0..<2 as Range<UInt16> { driver.register(rank, epoch: driver.machine.state.epoch) }
        let epoch = driver.machine.state.epoch
        let models = [try #require(driver.machine.state.models[ModelID(1)])]
        driver.register(0, epoch: epoch, models: models, lengths: lengths)
        var asked = operations(driver.register(1, epoch: epoch, models: models)).filter { $0.link == Driver.link(1) }
        #expect(asked.count == window)
        var confirmed = 0
        // All are refused, each of which lets another one go; then as many as a window at each turn.
        for turn in 0..<3 {
            var refused = 0
            while let next = asked.popLast() {
                refused += 1
                asked += operations(driver.on { $0.operationFailed(next.link, number: next.number, Self.full) })
                #expect(asked.count <= window)
            }
            #expect(refused == (turn == 0 ? count : window))
            asked = operations(driver.on { [now = driver.now] in $0.tick(now: now) })
            #expect(asked.count == window)
        }
        while let next = asked.popLast() {
            confirmed += 1
            asked += operations(driver.on { $0.operationDone(next.link, number: next.number) })
            #expect(asked.count <= window)
        }
        #expect(confirmed == count)
    }

    @Test("whatever is refused for now, every rank ends as if it had carried all out in their order")
    func random() throws {
        var random = SeededGenerator.ofRun(salt: 20)
        for _ in 0..<50 {
            let parents = [s, t, SequenceID(3)]
            var driver = try ready(["s1", "s2", "s3"])
            let claims = try (1...3).map { try driver.taken("s\($0)") }
            var expected = Dictionary(uniqueKeysWithValues: parents.map { ($0, 20) })
            var ranks = [expected, expected]
            let before = driver.actions.count
            for round in 0..<40 {
                let index = Int.random(in: 0..<3, using: &random)
                let length = Int.random(in: 0...expected[parents[index]]!, using: &random)
                if Int.random(in: 0..<4, using: &random) == 0 {
                    driver.send(.truncate(name: "s\(index + 1)", length: length, claim: claims[index]))
                    expected[parents[index]] = length
                } else {
                    driver.send(
                        .fork(name: "s\(index + 1)", newName: "f\(round)", length: length, claim: claims[index]))
                    let child = try #require(
                        driver.machine.state.sequences.values.first { $0.record.name == "f\(round)" })
                    expected[child.record.id] = length
                }
            }
            var underWay = operations(driver.actions[before...])
            while driver.machine.state.sequences.values.contains(where: { $0.fork != nil || $0.truncateLength != nil })
            {
                guard let index = underWay.indices.randomElement(using: &random) else {
                    underWay = operations(driver.on { [now = driver.now] in $0.tick(now: now) })
                    #expect(!underWay.isEmpty, "seed \(SeededGenerator.seed)")
                    if underWay.isEmpty { return }
                    continue
                }
                let (operation, number, link) = underWay.remove(at: index)
                if Bool.random(using: &random) {
                    underWay += operations(driver.on { $0.operationFailed(link, number: number, Self.full) })
                    continue
                }
                let rank = Int(link.value) - 1
                switch operation {
                case .fork(let parent, let child, let length, _):
                    #expect(ranks[rank][parent]! >= length, "seed \(SeededGenerator.seed): \(operation)")
                    ranks[rank][child] = length
                case .truncate(let id, let length): ranks[rank][id] = length
                default: Issue.record("seed \(SeededGenerator.seed): \(operation)")
                }
                underWay += operations(driver.on { $0.operationDone(link, number: number) })
            }
            #expect(ranks == [expected, expected], "seed \(SeededGenerator.seed)")
        }
    }
}
