// SPDX-License-Identifier: Apache-2.0

import DCPCoordinator
import DCPCore
import DCPWire
import Testing

/// What a rank's store holds, as a registration and the answer to a question for names tell it.
private struct Held {
    var epoch = Epoch(7)
    var cluster = ClusterID(5)
    var models: [ModelRecord]
    var numbers = Registration.Numbers(model: 4, sequence: 90)
    var lengths: [SequenceID: Int] = [:]
    var names: [SequenceID: String] = [:]
    var retentions: [SequenceID: Retention] = [:]

    func records(_ ids: [SequenceID]) -> [SequenceRecord] {
        ids.compactMap { id in
            guard lengths[id] != nil else { return nil }
            return SequenceRecord(id: id, name: names[id] ?? "", model: models[0].id, scope: "tenant")
        }
    }
}

private let s = SequenceID(11), t = SequenceID(12)

@Suite("CoordinatorMachine: a directory that is made of what the ranks hold")
struct AdoptionTests {
    private func held(_ lengths: [SequenceID: Int]) throws -> Held {
        Held(
            models: [ModelRecord(id: ModelID(3), name: "m", description: try shape())], lengths: lengths,
            names: [s: "s", t: "t"])
    }

    private func register(_ held: [Held], _ driver: inout Driver, epoch: Epoch? = nil) -> [CoordinatorMachine.Action] {
        held.enumerated().flatMap { rank, held in
            driver.register(
                UInt16(rank), cluster: held.cluster, epoch: epoch ?? held.epoch, models: held.models,
                numbers: held.numbers, lengths: held.lengths, retentions: held.retentions)
        }
    }

    private func questions(_ actions: [CoordinatorMachine.Action]) -> [(
        link: LinkID, number: UInt64, ids: [SequenceID]
    )] {
        actions.compactMap {
            guard case .send(.recordsRequest(let ids), let number, let link) = $0 else { return nil }
            return (link, number, ids)
        }
    }

    /// Registers both ranks, answers the coordinator's questions and returns the actions after the last answer.
    private func adopt(_ held: [Held], _ driver: inout Driver) -> [CoordinatorMachine.Action] {
        _ = register(held, &driver)
        var actions = register(held, &driver, epoch: driver.machine.state.epoch)
        var waiting = questions(actions)[...]
        while let question = waiting.popFirst() {
            let rank = Int(question.link.value) - 1
            actions = driver.on {
                $0.records(
                    question.link, number: question.number, held[rank].records(question.ids))
            }
            waiting += questions(actions)
        }
        return actions
    }

    private func report(_ actions: [CoordinatorMachine.Action]) throws -> AdoptionReport {
        try #require(
            actions.lazy.compactMap { if case .report(.adopted(let report)) = $0 { report } else { nil } }.first)
    }

    private func entries(_ driver: Driver) -> [String: SequenceEntry] {
        Dictionary(uniqueKeysWithValues: driver.machine.state.sequences.values.map { ($0.record.name, $0) })
    }

    @Test(
        "with the state lost: an epoch above all, models, names, scopes, the shortest lengths, and a report of the cuts"
    )
    func lost() throws {
        var driver = try Driver(adopts: true)
        var (first, second) = (try held([s: 40, t: 8]), try held([s: 30, t: 8]))
        (first.epoch, second.epoch) = (Epoch(6), Epoch(9))
        second.numbers = .init(model: 8, sequence: 200)
        let came = register([first, second], &driver)
        // No rank hears of an epoch below its own, which would end it.
        for (topology, link) in topologies(came) where topology.phase == .incomplete {
            #expect(topology.epoch >= (link == Driver.link(0) ? first : second).epoch)
        }
        #expect(driver.machine.state.epoch == Epoch(9 + 1000) && driver.machine.state.cluster == ClusterID(5))
        #expect(driver.machine.state.isAdopting && refusals(came).isEmpty)
        for rank in 0..<2 as Range<UInt16> { driver.linksReady(rank) }
        let actions = adopt([first, second], &driver)
        // In one transaction, before any rank is told to cut.
        #expect(kinds(actions).first == "persist" && !driver.machine.state.isAdopting)
        #expect(try report(actions) == AdoptionReport(models: 1, sequences: 2))
        #expect(driver.machine.state.models == [ModelID(3): first.models[0]])
        #expect(entries(driver).mapValues(\.record.id) == ["s": s, "t": t])
        #expect(entries(driver)["s"]?.record.scope == "tenant")
        #expect(operations(actions).map(\.operation) == [.truncate(s, length: 30)])
        let cuts = actions.compactMap { if case .report(.reconciled(let cuts)) = $0 { cuts } else { nil } }.joined()
        #expect(cuts.map(\.name) == ["s"] && cuts.map(\.from) == [40] && cuts.map(\.to) == [30])
        driver.confirm(actions)
        for rank in 0..<2 as Range<UInt16> { driver.linksReady(rank) }
        #expect(driver.machine.phase == .ready)
        // Numbers that a closed sequence or a removed model had are not given again.
        let new = try driver.carry(.openSequence(name: "new", model: "m", revision: "", create: true))
        #expect(new.sequences.map(\.id) == [SequenceID(201)])
        #expect(try driver.carry(.registerModel(name: "n", try shape())).models.map(\.id) == [ModelID(9)])
    }

    @Test("names are requested in pages from each rank")
    func pages() throws {
        let count = 5000
        var held = try held([:])
        for id in 1...UInt64(count) {
            held.lengths[SequenceID(id)] = 1
            held.names[SequenceID(id)] = "s\(id)"
        }
        var driver = try Driver(adopts: true)
        #expect(try report(adopt([held, held], &driver)) == AdoptionReport(models: 1, sequences: count))
        let asked = questions(driver.actions)
        #expect(asked.count == 4 && asked.allSatisfy { $0.ids.count <= 4096 })
        #expect(Set(asked.flatMap(\.ids)).count == count)
    }

    @Test(
        "sequences that are missing or differ on a rank are not adopted, with the reason; ranks keep them for the grace time"
    )
    func givenUp() throws {
        let whole = try held([s: 40, t: 8])
        func change(_ body: (inout Held) throws -> Void) throws -> Held {
            var changed = whole
            try body(&changed)
            return changed
        }
        let cases: [(second: Held, kept: Set<String>, lost: String, reason: String)] = [
            (try change { $0.lengths[t] = nil }, ["s"], "sequence `t`", "rank 1 does not have it"),
            (try change { $0.names[t] = "u" }, ["s"], "sequence `t`", "disagree"),
            (try change { $0.names[t] = "" }, ["s"], "sequence `t`", "disagree"),
            (
                try change {
                    $0.models = [ModelRecord(id: ModelID(3), name: "m", description: try shape(queryHeads: 4))]
                },
                [], "model `m`", "query heads"
            ),
            (try change { $0.models = [] }, [], "model `m`", "rank 1 does not have it"),
        ]
        for (second, kept, lost, reason) in cases {
            var driver = try Driver(adopts: true)
            // A store without a model has no sequences of it.
            var second = second
            if second.models.isEmpty { second.lengths = [:] }
            let actions = adopt([whole, second], &driver)
            #expect(Set(entries(driver).keys) == kept)
            let report = try report(actions)
            #expect(report.lost.contains { $0.what.contains(lost) && $0.reason.contains(reason) }, "\(report)")
            #expect(!operations(actions).contains { if case .close = $0.operation { true } else { false } })
            let unknown = actions.contains { if case .report(.unknownSequences) = $0 { true } else { false } }
            #expect(unknown)
        }
        var nameless = whole
        nameless.names = [:]
        var same = whole
        same.names = [s: "one", t: "one"]
        for (held, reasons) in [
            (nameless, ["its name is unknown", "its name is unknown"]), (same, ["a later one has the same name"]),
        ] {
            var driver = try Driver(adopts: true)
            #expect(try report(adopt([held, held], &driver)).lost.map(\.reason) == reasons)
        }
    }

    @Test(
        "an older state: what is closed since goes, what is new comes, owed truncations and forks are not carried out")
    func older() throws {
        var old = try Driver()
        old.becomeReady()
        let model = try #require(try old.carry(.registerModel(name: "m", try shape())).models.first)
        for name in ["gone", "cut", "closing"] {
            _ = try old.carry(.openSequence(name: name, model: "m", revision: "", create: true))
        }
        _ = old.ask(.truncate(name: "cut", length: 5))
        _ = old.ask(.close(name: "closing"))
        let (cut, closing, new) = (SequenceID(2), SequenceID(3), SequenceID(4))

        var driver = Driver(restarting: old, adopts: true)
        var held = Held(epoch: Epoch(30), models: [model])
        held.lengths = [cut: 50, closing: 9, new: 7]
        held.names = [cut: "cut", closing: "closing", new: "new"]
        held.cluster = Driver.cluster
        var pinned = Retention()
        (pinned.isPinned, pinned.timeToLive) = (true, 60)
        held.retentions = [new: pinned]
        var other = held
        other.retentions = [:]
        let actions = adopt([held, other], &driver)
        let report = try report(actions)
        #expect(report.sequences == 2 && report.closed == ["gone"] && report.lost.isEmpty)
        let entries = entries(driver)
        #expect(Set(entries.keys) == ["cut", "closing", "new"])
        #expect(entries["cut"]?.truncateLength == nil && entries["closing"]?.isClosing == true)
        // Whichever of two records is the older one, the sequence stays for as long as either says.
        #expect(entries["new"]?.retention.isPinned == true && entries["new"]?.retention.timeToLive == 0)
        let asked = operations(actions).map(\.operation)
        #expect(asked.count { $0 == .close(closing) } == 2)
        #expect(asked.contains(.retain(new, entries["new"]!.retention)))
        #expect(!asked.contains { if case .truncate = $0 { true } else { false } })
        driver.confirm(actions)
        for rank in 0..<2 as Range<UInt16> { driver.linksReady(rank) }
        #expect(driver.machine.phase == .ready && Set(self.entries(driver).keys) == ["cut", "new"])
    }

    @Test("a coordinator that dies in the midst of adoption continues it at its restart, without the option")
    func interrupted() throws {
        let held = try held([s: 40, t: 8])
        var first = try Driver(adopts: true)
        _ = register([held, held], &first)
        let begun = first.machine.state.epoch
        _ = register([held, held], &first, epoch: begun)
        #expect(questions(first.actions).count == 2)

        var second = Driver(restarting: first)
        var joined = held
        joined.epoch = begun
        #expect(try report(adopt([joined, joined], &second)) == AdoptionReport(models: 1, sequences: 2))
        #expect(second.machine.state.epoch > begun)

        var third = Driver(restarting: second)
        joined.epoch = second.machine.state.epoch
        _ = register([joined, joined], &third)
        let settled = register([joined, joined], &third, epoch: third.machine.state.epoch)
        #expect(questions(settled).isEmpty && Set(entries(third).keys) == ["s", "t"])
    }

    @Test("a pin is refused until the directory is rebuilt, which would forget it")
    func retention() throws {
        let held = try held([s: 40])
        var first = try Driver(adopts: true)
        let adopted = adopt([held, held], &first)
        first.confirm(adopted)
        var joined = held
        joined.epoch = first.machine.state.epoch

        var again = Driver(restarting: first, adopts: true)
        let refusal = try again.refusal(of: .pin(name: "s"))
        #expect(refusal.code == .notReady && refusal.message.contains("`s`") && refusal.message.contains("rank 0"))
        let adoptedAgain = adopt([joined, joined], &again)
        again.confirm(adoptedAgain)
        #expect(try again.carry(.pin(name: "s")).retention?.isPinned == true)
    }

    @Test("a rank that is lost in the midst begins it anew; late answers count for nothing")
    func lostRank() throws {
        let held = try held([s: 40])
        var driver = try Driver(adopts: true)
        _ = register([held, held], &driver)
        let asked = questions(register([held, held], &driver, epoch: driver.machine.state.epoch))
        driver.on { $0.linkClosed(Driver.link(1), reason: ServiceError(.rankUnavailable, "gone")) }
        let late = driver.on {
            $0.records(Driver.link(0), number: asked[0].number, held.records(asked[0].ids))
        }
        #expect(late.isEmpty && entries(driver).isEmpty)
        _ = driver.register(1, cluster: held.cluster, epoch: held.epoch)
        let again = questions(register([held, held], &driver, epoch: driver.machine.state.epoch))
        #expect(again.count == 2)
        let stale = driver.on {
            $0.records(Driver.link(0), number: asked[0].number, held.records(asked[0].ids))
        }
        #expect(stale.isEmpty)
        for question in again {
            driver.on { $0.records(question.link, number: question.number, held.records(question.ids)) }
        }
        #expect(Set(entries(driver).keys) == ["s"])
    }

    @Test("two clusters' ranks, and a store that has never joined one, are refused with the remedy")
    func strangers() throws {
        let held = try held([s: 40])
        var driver = try Driver(adopts: true)
        _ = driver.register(0, cluster: held.cluster, epoch: held.epoch)
        for (cluster, parts) in [
            (ClusterID(6), ["\(ClusterID(6))", "\(ClusterID(5))", "stores of rank 0"]),
            (.none, ["never joined", "--adopt-without 1"]),
        ] {
            let actions = driver.register(1, cluster: cluster, epoch: held.epoch)
            let refused = try #require(refusals(actions).first?.error)
            #expect(refused.code == .storeRefused)
            for part in parts { #expect(refused.message.contains(part), "\(refused.message)") }
            #expect(actions.contains { if case .report(.rankRefused(RankIndex(1), _)) = $0 { true } else { false } })
        }
        #expect(driver.machine.state.epoch == .none, "nothing was begun")
    }

    @Test("a lost store that is named gives up its tokens: names stay, and sequences are empty")
    func replaced() throws {
        let held = try held([s: 40])
        var driver = try Driver(adopts: true, without: [RankIndex(1)])
        var empty = Held(epoch: .none, cluster: .none, models: [], numbers: .init())
        _ = register([held, empty], &driver)
        empty.cluster = held.cluster
        let actions = adopt([held, empty], &driver)
        #expect(try report(actions) == AdoptionReport(models: 1, sequences: 1))
        let asked = operations(actions).map(\.operation)
        #expect(asked.contains(.truncate(s, length: 0)) && asked.contains(.putModel(held.models[0])))
    }

    @Test("without the option a coordinator refuses ranks that know more than it, and names the remedy")
    func notTold() throws {
        var driver = try Driver()
        for (cluster, epoch) in [(ClusterID(5), Epoch(7)), (.none, Epoch(7)), (ClusterID(5), .none)] {
            let refused = try #require(refusals(driver.register(0, cluster: cluster, epoch: epoch)).first?.error)
            #expect(refused.code == .storeRefused && refused.message.contains("--adopt-ranks"))
        }
    }

    @Test("an older copy of a store, of before the adoption, can have nothing: where sequences were cut is not known")
    func olderStoreAfterwards() throws {
        let held = try held([s: 40])
        var driver = try Driver(adopts: true)
        driver.confirm(adopt([held, held], &driver))
        let history = try #require(entries(driver)["s"]?.history)
        #expect(history.shortest(since: held.epoch) == 0)
        #expect(history.shortest(since: driver.machine.state.epoch) == nil)
    }
}
