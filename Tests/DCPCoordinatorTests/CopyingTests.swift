// SPDX-License-Identifier: Apache-2.0

import DCPCoordinator
import DCPCore
import DCPWire
import Testing

@Suite("CoordinatorMachine: all stores at one moment")
struct CopyingTests {
    private func ready(_ names: [String] = ["s"]) throws -> Driver {
        var driver = try Driver()
        driver.becomeReady()
        _ = try driver.carry(.registerModel(name: "m", try shape()))
        for name in names { _ = try driver.carry(.openSequence(name: name, model: "m", revision: "", create: true)) }
        return driver
    }

    private func begin(_ driver: inout Driver) -> [CoordinatorMachine.Action] {
        driver.send(many: [BeginCopy(waitMilliseconds: 10_000)])
    }

    private func requests(_ actions: [CoordinatorMachine.Action]) -> [(number: UInt64, link: LinkID)] {
        actions.compactMap { if case .send(.copyRequest, let number, let link) = $0 { (number, link) } else { nil } }
    }

    private func answers(_ actions: [CoordinatorMachine.Action]) -> [Result<BegunCopy, ServiceError>] {
        actions.flatMap { action -> [Result<BegunCopy, ServiceError>] in
            guard case .answer(.reply(let body), _, _) = action else { return [] }
            return (try? body.reply(to: Many<BeginCopy>.self).answers) ?? []
        }
    }

    private func held(_ actions: [CoordinatorMachine.Action]) -> Bool {
        actions.contains { if case .hold = $0 { true } else { false } }
    }

    @Test("it waits for what is on its way, holds back what comes, and lets it go when every rank holds its store")
    func barrier() throws {
        var driver = try ready()
        let claim = try driver.taken("s")
        let cut = operations(driver.send(.truncate(name: "s", length: 3, claim: claim)))
        #expect(cut.count == 2 && requests(begin(&driver)).isEmpty)
        let open = driver.send(.openSequence(name: "t", model: "m", revision: "", create: true))
        #expect(operations(open).isEmpty && kinds(open) == ["persist"], "recorded, and not sent")
        #expect(requests(driver.on { $0.operationDone(cut[0].link, number: cut[0].number) }).isEmpty)
        let drained = driver.on { $0.operationDone(cut[1].link, number: cut[1].number) }
        let asked = requests(drained)
        #expect(asked.map(\.link) == [Driver.link(0), Driver.link(1)] && held(drained))
        let first = driver.on { $0.copyHeld(asked[0].link, number: asked[0].number) }
        #expect(first.isEmpty, "a rank's answer counts once, and one is missing")
        #expect(driver.on { $0.copyHeld(asked[0].link, number: asked[0].number) }.isEmpty)
        let done = driver.on { $0.copyHeld(asked[1].link, number: asked[1].number) }
        let begun = try #require(answers(done).first).get()
        #expect(begun.number == asked[0].number && begun.epoch == driver.machine.state.epoch)
        #expect(operations(done).count == 2, "the open goes on")
        driver.confirm(done)
    }

    @Test("an operation that a rank cannot carry out now is owed, and does not delay a backup")
    func postponed() throws {
        var driver = try ready()
        let claim = try driver.taken("s")
        let cut = operations(driver.send(.truncate(name: "s", length: 3, claim: claim)))
        driver.on { $0.operationDone(cut[0].link, number: cut[0].number) }
        #expect(requests(begin(&driver)).isEmpty)
        let full = ServiceError(.storeFull, "no room", rank: RankIndex(1))
        let asked = requests(driver.on { $0.operationFailed(cut[1].link, number: cut[1].number, full) })
        #expect(asked.count == 2)
        #expect(operations(driver.on { $0.tick(now: .seconds(1)) }).isEmpty, "nor is it asked for again meanwhile")
        #expect(driver.machine.state.sequences[SequenceID(1)]?.truncateLength == 3, "the coordinator's copy has it")
    }

    @Test("a rank that fails, is lost, or takes too long ends the backup, and service continues")
    func failed() throws {
        typealias End = (inout Driver, (number: UInt64, link: LinkID)) -> [CoordinatorMachine.Action]
        let ends: [(End, ServiceError.Code)] = [
            (
                { driver, asked in
                    driver.on {
                        $0.operationFailed(asked.link, number: asked.number, ServiceError(.overloaded, "two are held"))
                    }
                }, .overloaded
            ),
            (
                { driver, _ in
                    driver.on { $0.linkClosed(Driver.link(1), reason: ServiceError(.rankUnavailable, "gone")) }
                }, .rankUnavailable
            ),
            (
                { driver, _ in
                    for rank in 0..<2 as Range<UInt16> {
                        driver.on { $0.renewed(Driver.link(rank), now: .seconds(11)) }
                    }
                    return driver.on { $0.tick(now: .seconds(11)) }
                }, .deadlineExceeded
            ),
        ]
        for (end, code) in ends {
            var driver = try ready()
            let asked = requests(begin(&driver))
            let second = answers(begin(&driver))
            guard case .failure(let error) = second.first else {
                Issue.record("two backups began at once")
                continue
            }
            #expect(error.code == .overloaded)
            let pin = driver.send(.pin(name: "s"))
            #expect(operations(pin).isEmpty)
            let ended = end(&driver, asked[0])
            guard case .failure(let error) = answers(ended).first else {
                Issue.record("\(code): no answer")
                continue
            }
            #expect(error.code == code)
            #expect(operations(ended).count == (code == .rankUnavailable ? 0 : 2))
            let late = driver.on { $0.copyHeld(asked[0].link, number: asked[0].number) }
            #expect(late.isEmpty)
        }
    }

    @Test("a cluster that is not ready has no moment at which all hold the same")
    func notReady() throws {
        var driver = try Driver()
        guard case .failure(let error) = answers(begin(&driver)).first else {
            Issue.record("a backup of nothing")
            return
        }
        #expect(error.code == .notReady)
    }
}
