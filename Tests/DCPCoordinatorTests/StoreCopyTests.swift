// SPDX-License-Identifier: Apache-2.0

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

    @Test("a restarted process is accepted when the lease of the dead one has ended, without an alarm")
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

    @Test("a store behind its reported durable mark is refused finally, also by a restarted coordinator")
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
        for part in ["rank 1", "\(Driver.store(1))", "41", "42", "dcpctl store accept-older 1"] {
            #expect(refused[0].error.message.contains(part))
        }
        let same = driver.register(1, mark: 42)
        #expect(refusals(same).isEmpty)

        var accepting = Driver(restarting: first, losses: [RankLoss(RankIndex(1), .changes(42))])
        let taken = accepting.register(1, mark: 41)
        #expect(refusals(taken).isEmpty && accepting.persisted.contains(.mark(RankIndex(1), 41)))
        accepting.on { $0.linkClosed(Driver.link(1), reason: ServiceError(.rankUnavailable, "gone")) }
        #expect(refusals(accepting.register(1, mark: 40)).map(\.error.code) == [.storeRefused])
    }

    @Test("with an older store, a sequence that was cut since its epoch is cut to there again on all ranks")
    func cutSince() throws {
        var first = try Driver()
        first.becomeReady()
        let model = try #require(try first.carry(.registerModel(name: "m", try shape())).models.first)
        for name in ["cut", "kept"] {
            _ = try first.carry(.openSequence(name: name, model: "m", revision: "", create: true))
        }
        let (cut, kept) = (SequenceID(1), SequenceID(2))
        let epoch = first.machine.state.epoch
        // Cut to 20, and gone on with other tokens than the older store has from there.
        _ = try first.carry(.truncate(name: "cut", length: 20))
        first.on { $0.renewed(Driver.link(1), LeaseRenewal(stepsInFlight: 0, durableMark: 42), now: .seconds(2)) }
        first.on { $0.linkClosed(Driver.link(1), reason: ServiceError(.rankUnavailable, "gone")) }

        var driver = Driver(restarting: first, losses: [RankLoss(RankIndex(1), .changes(42))])
        driver.register(0, epoch: epoch)
        let taken = driver.register(1, epoch: epoch, mark: 41)
        #expect(driver.persisted.contains(.mark(RankIndex(1), 41)))
        let reported = taken.compactMap { action -> [Int]? in
            if case .report(.olderStoreTaken(RankIndex(1), mark: 41, recorded: 42, let cuts)) = action {
                return cuts.map(\.to)
            }
            return nil
        }
        #expect(reported == [[20]])
        // A coordinator that dies here has recorded it.
        #expect(Driver(restarting: driver).machine.state.sequences[cut]?.truncateLength == 20)
        let joined = driver.machine.state.epoch
        driver.register(0, epoch: joined, models: [model], lengths: [cut: 90, kept: 90])
        let join = driver.register(1, epoch: joined, models: [model], lengths: [cut: 90, kept: 80], mark: 41)
        let asked = (0..<2).map { rank in
            operations(join).filter { $0.link == Driver.link(UInt16(rank)) }.map(\.operation)
        }
        #expect(asked == [[.truncate(cut, length: 20), .truncate(kept, length: 80)], [.truncate(cut, length: 20)]])
    }

    @Test("a store that has seen a later epoch than a cut has carried it out")
    func cutBefore() {
        var history = CutHistory()
        #expect(history.shortest(since: Epoch(0)) == nil)
        for (epoch, length) in [(1, 50), (2, 20), (2, 60), (4, 30), (5, 40), (5, 35)] {
            history.note(length, in: Epoch(UInt64(epoch)))
        }
        #expect((1...6).map { history.shortest(since: Epoch(UInt64($0))) } == [20, 20, 30, 30, 35, nil])
        for epoch in 6..<20 { history.note(100 + epoch, in: Epoch(UInt64(epoch))) }
        #expect(history.cuts.count == CutHistory.cutsMax)
        // What is forgotten is taken for later than it was, and for as short.
        #expect(history.shortest(since: Epoch(1)) == 20 && history.shortest(since: Epoch(12)) == 20)
        #expect(history.shortest(since: Epoch(13)) == 113 && history.shortest(since: Epoch(19)) == 119)
    }
}
