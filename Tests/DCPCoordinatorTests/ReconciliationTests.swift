// SPDX-License-Identifier: Apache-2.0

import DCPCoordinator
import DCPCore
import DCPWire
import Testing

@Suite("CoordinatorMachine: bringing the ranks of an epoch to one state")
struct ReconciliationTests {
    private let s = SequenceID(1), t = SequenceID(2)

    /// Two ranks in a directory with model 1 and some open sequences, both gone since.
    private func directory(_ names: [String]) throws -> Driver {
        var driver = try Driver()
        driver.becomeReady()
        _ = try driver.carry(.registerModel(name: "m", try shape()))
        for name in names { _ = try driver.carry(.openSequence(name: name, model: "m", revision: "", create: true)) }
        return driver
    }

    private func leave(_ driver: inout Driver) {
        for rank in 0..<2 as Range<UInt16> {
            driver.on { $0.linkClosed(Driver.link(rank), reason: ServiceError(.rankUnavailable, "gone")) }
        }
    }

    private func model(_ driver: Driver) throws -> ModelRecord { try #require(driver.machine.state.models[ModelID(1)]) }

    /// Joins with these lengths; returns what each rank was asked to do, in order, before anything was confirmed.
    private func join(_ driver: inout Driver, _ lengths: [[SequenceID: Int]], models: [ModelRecord]? = nil) throws
        -> (asked: [[DirectoryOperation]], actions: [CoordinatorMachine.Action])
    {
        leave(&driver)
        for rank in 0..<2 as Range<UInt16> { driver.register(rank, epoch: driver.machine.state.epoch) }
        let epoch = driver.machine.state.epoch
        let models = try models ?? [model(driver)]
        #expect(operations(driver.register(0, epoch: epoch, models: models, lengths: lengths[0])).isEmpty)
        let actions = driver.register(1, epoch: epoch, models: models, lengths: lengths[1])
        let sent = operations(actions)
        return ((0..<2).map { rank in sent.filter { $0.link == Driver.link(UInt16(rank)) }.map(\.operation) }, actions)
    }

    @Test("the length becomes the smallest; longer ranks truncate, others are left alone")
    func minimum() throws {
        var driver = try directory(["s", "t"])
        let (asked, actions) = try join(&driver, [[s: 10, t: 4], [s: 7, t: 4]])
        #expect(asked == [[.truncate(s, length: 7)], []])
        let cuts = cuts(actions)
        #expect(cuts.map(\.sequence) == [s] && cuts[0].name == "s" && cuts[0].ranks == [RankIndex(0)])
        #expect(cuts.map(\.from) == [10] && cuts.map(\.to) == [7])
    }

    private func cuts(_ actions: [CoordinatorMachine.Action]) -> [SequenceCut] {
        actions.flatMap { action -> [SequenceCut] in
            guard case .report(.reconciled(let cuts)) = action else { return [] }
            return cuts
        }
    }

    @Test("the cluster is ready only when what was asked is confirmed, whatever came first")
    func confirmedFirst() throws {
        var driver = try directory(["s"])
        let (_, actions) = try join(&driver, [[s: 10], [s: 7]])
        for rank in 0..<2 as Range<UInt16> { driver.linksReady(rank) }
        #expect(driver.machine.phase == .joining && driver.machine.reason == "sequences are being reconciled")
        driver.confirm(actions)
        #expect(driver.machine.phase == .ready)
    }

    @Test("a rank without a sequence, or without its model, gets it; the others fall back to its nothing")
    func missing() throws {
        var driver = try directory(["s"])
        let record = try model(driver)
        var (asked, _) = try join(&driver, [[s: 10], [:]])
        #expect(asked == [[.truncate(s, length: 0)], [.open(SequenceRecord(id: s, name: "s", model: ModelID(1)))]])
        let actions: [CoordinatorMachine.Action]
        (asked, actions) = try join(&driver, [[:], [:]], models: [])
        #expect(asked == [[.putModel(record)], [.putModel(record)]])
        let (_, number, link) = try #require(operations(actions).first)
        let then = driver.on { $0.operationDone(link, number: number) }
        #expect(operations(then).map(\.operation) == [.open(SequenceRecord(id: s, name: "s", model: ModelID(1)))])
    }

    @Test("TRAPS 20: a rank that holds another shape under a model's number gets the directory's")
    func otherModel() throws {
        var driver = try directory([])
        let record = try model(driver)
        let other = ModelRecord(id: record.id, name: record.name, description: try shape(queryHeads: 4))
        let (asked, _) = try join(&driver, [[:], [:]], models: [other])
        #expect(asked == [[.putModel(record)], [.putModel(record)]])
    }

    @Test("a fork that one rank missed is made there, at a length both have, and is then no longer owed")
    func fork() throws {
        var driver = try directory(["s"])
        _ = driver.ask(.fork(name: "s", newName: "t", length: 5))
        let (asked, actions) = try join(&driver, [[s: 8, t: 5], [s: 8]])
        #expect(asked == [[], [.fork(parent: s, child: t, length: 5, name: "t")]])
        driver.confirm(actions)
        #expect(driver.machine.state.sequences[t]?.fork == nil)
    }

    @Test("a fork that a rank missed, of a parent that is damaged there, keeps what is intact, and the cut is reported")
    func forkRefusedInJoin() throws {
        var driver = try directory(["s"])
        // Rank 1 is lost before it confirms.
        _ = driver.ask(.fork(name: "s", newName: "t", length: 6))
        let (asked, actions) = try join(&driver, [[s: 10, t: 6], [s: 10]])
        #expect(asked == [[], [.fork(parent: s, child: t, length: 6, name: "t")]])
        let sent = try #require(operations(actions).first)
        let epoch = driver.machine.state.epoch
        driver.on {
            $0.operationFailed(sent.link, number: sent.number, ServiceError(.storeDamaged, "a block of the parent"))
        }
        #expect(driver.machine.phase == .joining && driver.machine.state.epoch == epoch.next)
        let next = driver.machine.state.epoch
        driver.register(0, epoch: next, models: [try model(driver)], lengths: [s: 10, t: 6])
        let again = driver.register(1, epoch: next, models: [try model(driver)], lengths: [s: 10], intact: [s: 4])
        #expect(
            Set(operations(again).map(\.operation))
                == [.truncate(t, length: 4), .fork(parent: s, child: t, length: 4, name: "t")])
        #expect(cuts(again).map(\.sequence) == [t] && cuts(again)[0].from == 6 && cuts(again)[0].to == 4)
        driver.confirm(again)
        for rank in 0..<2 as Range<UInt16> { driver.linksReady(rank) }
        #expect(driver.machine.phase == .ready && driver.machine.state.sequences[t]?.fork == nil)
    }

    @Test("a fork that a rank refuses again at the length it is said to be good for stays owed, and the join ends")
    func forkRefusedAgain() throws {
        var driver = try directory(["s"])
        _ = driver.ask(.fork(name: "s", newName: "t", length: 6))
        let (_, actions) = try join(&driver, [[s: 10, t: 6], [s: 10]])
        func refuse(_ actions: [CoordinatorMachine.Action]) throws {
            let (_, number, link) = try #require(operations(actions).first)
            driver.on { $0.operationFailed(link, number: number, ServiceError(.storeDamaged, "the record of t")) }
        }
        try refuse(actions)
        let epoch = driver.machine.state.epoch
        driver.register(0, epoch: epoch, models: [try model(driver)], lengths: [s: 10, t: 6])
        try refuse(driver.register(1, epoch: epoch, models: [try model(driver)], lengths: [s: 10]))
        for rank in 0..<2 as Range<UInt16> { driver.linksReady(rank) }
        #expect(driver.machine.phase == .ready && driver.machine.state.sequences[t]?.fork != nil)
    }

    @Test("a truncation that a rank refuses for damage at a join stays owed, and is sent at the next")
    func truncationRefusedInJoin() throws {
        var driver = try directory(["s"])
        _ = driver.ask(.truncate(name: "s", length: 6))
        for _ in 0..<2 {
            let (asked, actions) = try join(&driver, [[s: 6], [s: 10]])
            #expect(asked == [[], [.truncate(s, length: 6)]] && cuts(actions).isEmpty)
            let sent = try #require(operations(actions).first)
            driver.on {
                $0.operationFailed(sent.link, number: sent.number, ServiceError(.storeDamaged, "a block before it"))
            }
            for rank in 0..<2 as Range<UInt16> { driver.linksReady(rank) }
            #expect(driver.machine.phase == .ready && driver.machine.state.sequences[s]?.truncateLength == 6)
        }
        // The client cuts it before the damage, which settles both.
        driver.confirm(driver.ask(.truncate(name: "s", length: 2)))
        #expect(driver.machine.state.sequences[s]?.truncateLength == nil)
    }

    @Test("a truncation that no rank has carried out yet is not forgotten for a later one that leaves more")
    func twoTruncations() throws {
        var driver = try directory(["s"])
        _ = driver.ask(.truncate(name: "s", length: 4))
        _ = driver.send(.truncate(name: "s", length: 6, claim: driver.lastClaim))
        let (asked, _) = try join(&driver, [[s: 10], [s: 10]])
        #expect(asked == [[.truncate(s, length: 4)], [.truncate(s, length: 4)]])
    }

    @Test("a fork comes before its parent's truncation, and is cut to what the shorter parent has")
    func forkOfShorterParent() throws {
        var driver = try directory(["s"])
        _ = driver.ask(.fork(name: "s", newName: "t", length: 5))
        let (asked, _) = try join(&driver, [[s: 8, t: 5], [s: 3]])
        #expect(asked[0].contains(.truncate(s, length: 3)) && asked[0].contains(.truncate(t, length: 3)))
        #expect(asked[1] == [.fork(parent: s, child: t, length: 3, name: "t")])
        var late = try directory(["s"])
        _ = late.ask(.fork(name: "s", newName: "t", length: 5))
        leave(&late)
        let (again, actions) = try join(&late, [[s: 3], [s: 8]])
        let fork = DirectoryOperation.fork(parent: s, child: t, length: 3, name: "t")
        #expect(again == [[fork], [fork]])
        let (_, number, link) = try #require(operations(actions).last)
        let then = late.on { $0.operationDone(link, number: number) }
        #expect(operations(then).map(\.operation) == [.truncate(s, length: 3)])
    }

    @Test("a fork of a pending fork is made after its parent")
    func forkOfFork() throws {
        var driver = try directory(["s"])
        let u = SequenceID(3)
        driver.confirm(driver.ask(.fork(name: "s", newName: "t", length: 5)))
        _ = driver.ask(.fork(name: "t", newName: "u", length: 4))
        let (asked, _) = try join(&driver, [[s: 8, t: 5, u: 4], [s: 8, t: 5]])
        #expect(asked == [[], [.fork(parent: t, child: u, length: 4, name: "u")]])
    }

    @Test("a recorded truncation is carried to ranks that missed it, and forgotten when all have it")
    func truncation() throws {
        var driver = try directory(["s"])
        _ = driver.ask(.truncate(name: "s", length: 6))
        let (asked, actions) = try join(&driver, [[s: 6], [s: 10]])
        #expect(asked == [[], [.truncate(s, length: 6)]])
        #expect(driver.machine.state.sequences[s]?.truncateLength == 6)
        driver.confirm(actions)
        #expect(driver.machine.state.sequences[s]?.truncateLength == nil)
    }

    @Test("a recorded closing is carried to ranks that have the sequence still, which is then removed")
    func closing() throws {
        var driver = try directory(["s"])
        _ = driver.ask(.close(name: "s"))
        let (asked, actions) = try join(&driver, [[:], [s: 10]])
        #expect(asked == [[], [.close(s)]])
        #expect(driver.machine.state.sequences[s]?.isClosing == true)
        driver.confirm(actions)
        #expect(driver.machine.state.sequences[s] == nil && driver.persisted.contains(.sequenceRemoved(s)))
    }

    @Test("a sequence without its model, as an earlier coordinator may have left it, is closed where it is")
    func withoutModel() throws {
        let cluster = try ClusterShape(ranks: 2, headGroups: 1, interleave: 1, blockTokens: 16, exchange: .allToAll)
        var state = CoordinatorState(shape: cluster, cluster: Driver.cluster)
        state.apply(.sequence(SequenceEntry(record: SequenceRecord(id: s, name: "s", model: ModelID(1)))))
        var driver = Driver(state: state)
        let (asked, actions) = try join(&driver, [[:], [s: 0]], models: [])
        #expect(asked == [[], [.close(s)]])
        driver.confirm(actions)
        #expect(driver.machine.state.sequences.isEmpty)
    }

    @Test("nothing is forgotten when a rank is lost before it has confirmed")
    func lostDuringJoin() throws {
        var driver = try directory(["s"])
        _ = driver.ask(.close(name: "s"))
        _ = try join(&driver, [[s: 9], [s: 10]])
        driver.on { $0.linkClosed(Driver.link(1), reason: ServiceError(.rankUnavailable, "gone")) }
        #expect(driver.machine.state.sequences[s]?.isClosing == true)
        let (asked, _) = try join(&driver, [[:], [s: 10]])
        #expect(asked == [[], [.close(s)]])
    }

    @Test("sequences the directory does not know are reported, and left alone at first")
    func unknown() throws {
        var driver = try directory([])
        let (asked, actions) = try join(&driver, [[SequenceID(77): 5, SequenceID(78): 6], [:]])
        #expect(asked == [[], []])
        let reported = actions.compactMap { action -> (RankIndex, [SequenceID])? in
            guard case .report(.unknownSequences(let rank, let sequences)) = action else { return nil }
            return (rank, sequences)
        }
        #expect(reported.count == 1 && reported[0] == (RankIndex(0), [SequenceID(77), SequenceID(78)]))
    }

    /// Lets time pass with every rank renewing its lease.
    private func pass(_ duration: Duration, _ driver: inout Driver) -> [CoordinatorMachine.Action] {
        driver.now += duration
        for rank in 0..<2 as Range<UInt16> {
            driver.on { [now = driver.now] in $0.renewed(Driver.link(rank), now: now) }
        }
        return driver.on { [now = driver.now] in $0.tick(now: now) }
    }

    @Test("sequences the directory does not know are dropped after the grace time, where they are, once")
    func unknownDropped() throws {
        var driver = try directory(["s"])
        func rejoin() throws {
            let (_, actions) = try join(
                &driver, [[s: 1, SequenceID(77): 5, SequenceID(78): 6], [s: 1, SequenceID(77): 5]])
            driver.confirm(actions)
            for rank in 0..<2 as Range<UInt16> { driver.linksReady(rank) }
            #expect(driver.machine.phase == .ready)
        }
        try rejoin()
        #expect(operations(pass(Driver.unknownGrace - .seconds(1), &driver)).isEmpty)
        // A join in between does not begin the time again.
        try rejoin()
        let dropped = pass(.seconds(2), &driver)
        let sent = operations(dropped).map { ($0.operation, $0.link) }
        #expect(sent.map(\.0) == [.close(SequenceID(77)), .close(SequenceID(77)), .close(SequenceID(78))])
        #expect(sent.map(\.1) == [Driver.link(0), Driver.link(1), Driver.link(0)])
        driver.confirm(dropped)
        #expect(operations(pass(Driver.unknownGrace * 2, &driver)).isEmpty)
        #expect(driver.machine.state.sequences[s] != nil)
    }

    @Test("a new sequence or model never takes a number that a rank's store uses, whatever the directory has forgotten")
    func numbersInUse() throws {
        var driver = try directory([])
        let old = ModelRecord(id: ModelID(9), name: "forgotten", description: try shape())
        let (_, actions) = try join(&driver, [[SequenceID(77): 5], [:]], models: [model(driver), old])
        driver.confirm(actions)
        for rank in 0..<2 as Range<UInt16> { driver.linksReady(rank) }
        let reply = try driver.carry(.openSequence(name: "new", model: "m", revision: "", create: true))
        #expect(reply.sequences.map(\.id) == [SequenceID(78)])
        let other = try driver.carry(.registerModel(name: "other", try shape()))
        #expect(other.models.map(\.id) == [ModelID(10)])
        // Also after a restart of the coordinator: the numbers are durable.
        #expect(driver.persisted.contains(.nextIDs(model: 10, sequence: 78)))
    }

    @Test("two ranks that agree get no operations, and nothing is persisted but the epoch")
    func agreed() throws {
        var driver = try directory(["s", "t"])
        let (asked, actions) = try join(&driver, [[s: 10, t: 0], [s: 10, t: 0]])
        #expect(asked == [[], []] && !kinds(actions).contains("persist"))
    }
}
