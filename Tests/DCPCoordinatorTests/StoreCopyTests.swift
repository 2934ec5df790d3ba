import DCPCoordinator
import DCPCore
import DCPWire
import Testing

@Suite("CoordinatorMachine: copies of a rank's store")
struct StoreCopyTests {
    private func secondHolders(_ actions: [CoordinatorMachine.Action]) -> [ServiceError] {
        actions.compactMap { if case .report(.secondHolder(_, let error)) = $0 { error } else { nil } }
    }

    @Test("another process with the same store is refused while the first keeps its lease; both are named, once")
    func second() throws {
        var driver = try Driver()
        driver.register(0, incarnation: 1)
        driver.register(1, incarnation: 2)
        let refused = driver.register(0, link: LinkID(50), incarnation: 3)
        #expect(refusals(refused).map(\.link) == [LinkID(50)] && secondHolders(refused).isEmpty)
        let error = refusals(refused)[0].error
        #expect(error.isRetryable && error.message.contains("process 1") && error.message.contains("process 3"))
        driver.now = .seconds(1)
        driver.on { [now = driver.now] in $0.renewed(Driver.link(0), now: now) }
        let news = driver.register(0, link: LinkID(51), incarnation: 3)
        let old = driver.register(0, link: LinkID(52), incarnation: 3)
        #expect(secondHolders(news).count == 1 && secondHolders(old).isEmpty)
        #expect(driver.machine.phase == .joining)
    }

    @Test("a process that was started again gets in when the lease of the dead one has ended, and nobody is alarmed")
    func restarted() throws {
        var driver = try Driver()
        driver.register(0, incarnation: 1)
        let early = driver.register(0, link: LinkID(50), incarnation: 3)
        #expect(refusals(early).count == 1)
        driver.now = Driver.lease + .milliseconds(1)
        driver.on { [now = driver.now] in $0.tick(now: now) }
        let late = driver.register(0, link: LinkID(51), incarnation: 3)
        #expect(refusals(late).isEmpty && secondHolders(driver.actions).isEmpty)
    }

    @Test("a store behind the durable mark it reported is refused for good, also by a coordinator that starts again")
    func older() throws {
        var first = try Driver()
        first.becomeReady()
        first.on { $0.renewed(Driver.link(1), LeaseRenewal(stepsInFlight: 0, durableMark: 40), now: .seconds(1)) }
        let recorded = first.on { $0.tick(now: .seconds(2)) }
        #expect(kinds(recorded) == ["persist"] && first.persisted.contains(.mark(RankIndex(1), 40)))
        // What it reported last is recorded when it is lost.
        first.on { $0.renewed(Driver.link(1), LeaseRenewal(stepsInFlight: 0, durableMark: 42), now: .seconds(2)) }
        first.on { $0.linkClosed(Driver.link(1), reason: ServiceError(.rankUnavailable, "gone")) }
        #expect(first.persisted.contains(.mark(RankIndex(1), 42)))

        var driver = Driver(restarting: first)
        let actions = driver.register(1, mark: 41)
        let refused = refusals(actions)
        #expect(refused.map(\.error.code) == [.storeRefused] && kinds(actions) == ["report", "send failure", "close"])
        for part in ["rank 1", "\(Driver.store(1))", "41", "42", "--accept-older-store 1"] {
            #expect(refused[0].error.message.contains(part))
        }
        let same = driver.register(1, mark: 42)
        #expect(refusals(same).isEmpty)

        var accepting = Driver(restarting: first, acceptable: [RankIndex(1)])
        let taken = accepting.register(1, mark: 41)
        #expect(refusals(taken).isEmpty && accepting.persisted.contains(.mark(RankIndex(1), 41)))
        accepting.on { $0.linkClosed(Driver.link(1), reason: ServiceError(.rankUnavailable, "gone")) }
        #expect(refusals(accepting.register(1, mark: 40)).map(\.error.code) == [.storeRefused])
    }
}
