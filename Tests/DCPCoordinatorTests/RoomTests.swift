// SPDX-License-Identifier: Apache-2.0

import DCPCoordinator
import DCPCore
import DCPWire
import Testing

/// The refusals that the coordinator sends to ranks.
private func refusalLists(_ actions: some Sequence<CoordinatorMachine.Action>) -> [(
    refusals: [ServiceError], link: LinkID
)] {
    actions.compactMap { if case .send(.refusals(let refusals), _, let link) = $0 { (refusals, link) } else { nil } }
}

private func evictions(_ actions: some Sequence<CoordinatorMachine.Action>) -> [SequenceID] {
    let ids = operations(actions).compactMap { sent -> SequenceID? in
        if case .evict(let id) = sent.operation { id } else { nil }
    }
    return Array(Set(ids)).sorted()
}

/// The candidates from which ranks choose victims.
private func inquiries(_ actions: some Sequence<CoordinatorMachine.Action>) -> [(
    candidates: [SequenceID], number: UInt64, link: LinkID
)] {
    actions.compactMap {
        guard case .send(.victimsRequest(let candidates), let number, let link) = $0 else { return nil }
        return (candidates, number, link)
    }
}

@Suite("full stores")
struct FullStoreTests {
    private func ready(ranks: Int = 2, evict: EvictionPolicy = .lru, sequences: Int = 4) throws -> Driver {
        var driver = try Driver(ranks: ranks, evict: evict, evictIdle: .seconds(10))
        driver.becomeReady()
        _ = try driver.carry(.registerModel(name: "m", shape()))
        for index in 1...sequences {
            _ = try driver.carry(.openSequence(name: "s\(index)", model: "m", revision: "", create: true))
        }
        driver.now = .seconds(100)
        return driver
    }

    private func renewal(
        _ refusal: ServiceError? = nil, wants byteCount: UInt64 = 0, used: [UInt64] = []
    ) -> LeaseRenewal {
        LeaseRenewal(
            stepsInFlight: 0, refusal: refusal, evictionByteCount: byteCount,
            usedSequences: used.map { SequenceID($0) })
    }

    private let full = ServiceError(.storeFull, "Full.", rank: RankIndex(1))

    /// A full rank renews, and answers with the first `count` candidates.
    private func evict(
        _ driver: inout Driver, at now: Duration, _ count: Int = 1
    ) -> [CoordinatorMachine.Action] {
        let sent = driver.on { $0.renewed(Driver.link(1), self.renewal(self.full, wants: 100), now: now) }
        return inquiries(sent).flatMap { asked in
            driver.on {
                $0.victims(asked.link, number: asked.number, Array(asked.candidates.prefix(count)), now: now)
            }
        }
    }

    @Test("one rank's refusal is sent to all ranks, once; its end as well")
    func told() throws {
        var driver = try ready(ranks: 3, evict: .off)
        let now = driver.now
        let first = driver.on { $0.renewed(Driver.link(1), self.renewal(self.full), now: now) }
        #expect(refusalLists(first).map(\.refusals) == [[full], [full], [full]])
        #expect(refusalLists(first).map(\.link) == [Driver.link(0), Driver.link(1), Driver.link(2)])
        #expect(refusalLists(driver.on { $0.renewed(Driver.link(1), self.renewal(self.full), now: now) }).isEmpty)
        let other = ServiceError(.storeDamaged, "Lost.", rank: RankIndex(0))
        let both = driver.on { $0.renewed(Driver.link(0), self.renewal(other), now: now) }
        #expect(refusalLists(both).map(\.refusals) == [[other, full], [other, full], [other, full]])
        let one = driver.on { $0.renewed(Driver.link(1), self.renewal(), now: now) }
        #expect(refusalLists(one).map(\.refusals) == [[other], [other], [other]])
    }

    @Test("a lost rank's refusal goes with it, and a ready cluster hears what still holds")
    func lost() throws {
        var driver = try ready(evict: .off)
        let now = driver.now
        driver.on { $0.renewed(Driver.link(1), self.renewal(self.full), now: now) }
        let gone = ServiceError(.rankUnavailable, "Gone.")
        let lost = driver.on { $0.linkClosed(Driver.link(1), reason: gone) }
        #expect(refusalLists(lost).map(\.refusals) == [[]])
        driver.on { $0.renewed(Driver.link(0), self.renewal(self.full), now: now) }
        let before = driver.actions.count
        driver.becomeReady()
        #expect(refusalLists(driver.actions[before...]).map(\.refusals).last == [full])
    }

    @Test("lru: the least recently used sequence is evicted first, and recorded before ranks get the operation")
    func leastRecentlyUsed() throws {
        var driver = try ready()
        driver.on { $0.renewed(Driver.link(0), self.renewal(used: [2, 1, 4]), now: .seconds(20)) }
        driver.on { $0.renewed(Driver.link(0), self.renewal(used: [2]), now: .seconds(30)) }
        // Opening is a use too, so 3 was used at the start, before the others.
        for expected: UInt64 in [3, 1, 4, 2] {
            let sent = evict(&driver, at: driver.now)
            #expect(evictions(sent) == [SequenceID(expected)])
            let words = kinds(sent)
            #expect(words.firstIndex(of: "persist")! < words.firstIndex(of: "send operation")!)
            driver.confirm(sent)
        }
        #expect(driver.persisted.contains(.sequenceRemoved(SequenceID(2))))
        #expect(evict(&driver, at: driver.now).isEmpty)
    }

    @Test("lru: after a restart of the coordinator the order is that of the rank that has seen most")
    func restart() throws {
        let before = try ready()
        var driver = Driver(restarting: before, evict: .lru)
        let lengths = Dictionary(uniqueKeysWithValues: (1...4).map { (SequenceID($0), 5) })
        let models = before.machine.state.models.map(\.value)
        let orders: [(order: [UInt64], useCount: UInt64)] = [([3, 1, 4, 2], 9), ([1, 2, 3, 4], 0)]
        func register(_ epoch: Epoch) {
            for (rank, told) in orders.enumerated() {
                driver.confirm(
                    driver.register(
                        UInt16(rank), epoch: epoch, models: models, lengths: lengths,
                        order: told.order.map { SequenceID($0) }, useCount: told.useCount))
            }
        }
        register(driver.machine.state.epoch)
        register(driver.machine.state.epoch)
        for rank: UInt16 in 0..<2 { driver.linksReady(rank) }
        #expect(driver.machine.phase == .ready)
        // What is used since counts above all of that.
        driver.on { $0.renewed(Driver.link(0), self.renewal(used: [3]), now: .seconds(20)) }
        for expected: UInt64 in [1, 4, 2, 3] {
            let sent = evict(&driver, at: .seconds(60))
            #expect(evictions(sent) == [SequenceID(expected)])
            driver.confirm(sent)
        }
    }

    @Test("a round: ranks that need room choose victims, all are evicted together, and the next round follows")
    func rounds() throws {
        var driver = try ready(ranks: 3)
        let now = driver.now
        let first = driver.on { $0.renewed(Driver.link(1), self.renewal(self.full, wants: 100), now: now) }
        let asked = try #require(inquiries(first).first)
        #expect(inquiries(first).map(\.link) == [Driver.link(1)], "rank 0 and rank 2 want nothing")
        #expect(asked.candidates == [1, 2, 3, 4].map { SequenceID($0) })
        // While its answer is pending, no other rank is asked, even if another is full by now.
        #expect(inquiries(driver.on { $0.renewed(Driver.link(0), self.renewal(wants: 5), now: now) }).isEmpty)
        let answer = [1, 3, 4].map { SequenceID($0) }
        #expect(driver.on { $0.victims(Driver.link(1), number: asked.number + 1, answer, now: now) }.isEmpty)
        #expect(driver.on { $0.victims(LinkID(77), number: asked.number, answer, now: now) }.isEmpty)
        // What was used meanwhile stays.
        driver.on { $0.renewed(Driver.link(2), self.renewal(used: [3]), now: now) }
        let gone = driver.on { $0.victims(Driver.link(1), number: asked.number, answer, now: now) }
        #expect(evictions(gone) == [SequenceID(1), SequenceID(4)])
        #expect(driver.on { $0.victims(Driver.link(1), number: asked.number, answer, now: now) }.isEmpty)
        #expect(inquiries(driver.on { $0.renewed(Driver.link(1), self.renewal(wants: 9), now: now) }).isEmpty)
        driver.confirm(gone)
        // Both ask for room, and what either needs goes.
        let later: Duration = .seconds(200)
        let second = driver.on { $0.renewed(Driver.link(1), self.renewal(wants: 9), now: later) }
        #expect(Set(inquiries(second).map(\.link)) == [Driver.link(0), Driver.link(1)])
        let number = inquiries(second)[0].number
        #expect(driver.on { $0.victims(Driver.link(0), number: number, [SequenceID(3)], now: later) }.isEmpty)
        let last = driver.on { $0.victims(Driver.link(1), number: number, [SequenceID(2)], now: later) }
        #expect(evictions(last) == [SequenceID(2), SequenceID(3)])
    }

    @Test("opening, forking, claiming and cutting are uses")
    func requestsAreUses() throws {
        var driver = try ready(sequences: 4)
        driver.now = .seconds(195)
        _ = try driver.carry(.openSequence(name: "s1", model: "", revision: "", create: false))
        _ = try driver.carry(.openSequence(name: "new", model: "m", revision: "", create: true))
        _ = try driver.carry(.fork(name: "s2", newName: "t", length: 0))
        _ = driver.claim("s4")
        let sent = driver.on { $0.renewed(Driver.link(1), self.renewal(self.full, wants: 100), now: .seconds(200)) }
        #expect(inquiries(sent).map(\.candidates) == [[SequenceID(3)]])
    }

    @Test("a round of which nothing goes ends, and the next asks anew")
    func nothingToFree() throws {
        var driver = try ready(sequences: 2)
        #expect(evict(&driver, at: driver.now, 0).isEmpty)
        #expect(evictions(evict(&driver, at: driver.now)) == [SequenceID(1)])
    }

    @Test("a canary's sequence stays: closing it would free nothing")
    func canary() throws {
        var driver = try ready(sequences: 1)
        for name in [".canary", ".canary-5f"] {
            _ = try driver.carry(.openCanary(name: name))
        }
        let first = evict(&driver, at: .seconds(200), 9)
        #expect(evictions(first) == [SequenceID(1)])
        driver.confirm(first)
        #expect(evict(&driver, at: .seconds(300)).isEmpty)
    }

    @Test("pinned sequences and those in use stay, and with the policy off all do")
    func spared() throws {
        var driver = try ready(sequences: 3)
        _ = try driver.carry(.pin(name: "s1"))
        #expect(
            driver.machine.page(ListSequences()).sequences.filter(\.retention.isPinned).map(\.record.id) == [
                SequenceID(1)
            ])
        driver.on { $0.renewed(Driver.link(0), self.renewal(used: [2]), now: .seconds(95)) }
        driver.on { $0.renewed(Driver.link(0), self.renewal(used: [3]), now: .seconds(89)) }
        let sent = evict(&driver, at: .seconds(100))
        #expect(evictions(sent) == [SequenceID(3)], "2 was used 5 s ago, 1 is pinned")
        driver.confirm(sent)
        let later = evict(&driver, at: .seconds(200))
        #expect(evictions(later) == [SequenceID(2)])
        driver.confirm(later)
        #expect(evict(&driver, at: .seconds(300)).isEmpty)
        driver.confirm(driver.ask(.unpin(name: "s1")))
        #expect(evictions(evict(&driver, at: .seconds(400))) == [SequenceID(1)])
        var off = try ready(evict: .off)
        #expect(evict(&off, at: .seconds(400)).isEmpty)
    }

    @Test("a sequence that an operation changes, or a fork reads, is not evicted")
    func busy() throws {
        var driver = try ready(sequences: 2)
        _ = driver.ask(.fork(name: "s1", newName: "t", length: 0))
        let sent = evict(&driver, at: .seconds(200))
        #expect(evictions(sent) == [SequenceID(2)])
    }

    @Test("an evicted name answers so, until it is opened anew")
    func evictedName() throws {
        var driver = try ready(sequences: 1)
        driver.confirm(evict(&driver, at: .seconds(200)))
        for request: DirectoryRequest in [
            .openSequence(name: "s1", model: "", revision: "", create: false), .truncate(name: "s1", length: 0),
            .pin(name: "s1"),
        ] {
            let refusal = try driver.refusal(of: request)
            #expect(refusal.code == .evicted && refusal.message.contains("`s1`") && !refusal.isRetryable)
        }
        #expect(try driver.refusal(of: .truncate(name: "s9", length: 0)).code == .unknownSequence)
        _ = try driver.carry(.openSequence(name: "s1", model: "m", revision: "", create: true))
        _ = try driver.carry(.close(name: "s1"))
        #expect(try driver.refusal(of: .truncate(name: "s1", length: 0)).code == .unknownSequence)
    }

    @Test("a rank lost during an eviction: it is closed at the rejoin, and another may go")
    func lostMeanwhile() throws {
        var driver = try ready(sequences: 2)
        let sent = evict(&driver, at: .seconds(200))
        #expect(evictions(sent) == [SequenceID(1)])
        driver.on { $0.linkClosed(Driver.link(0), reason: ServiceError(.rankUnavailable, "Gone.")) }
        driver.on { $0.linkClosed(Driver.link(1), reason: ServiceError(.rankUnavailable, "Gone.")) }
        let lengths = [SequenceID(1): 5, SequenceID(2): 5]
        driver.becomeReady(models: driver.machine.state.models.map(\.value), lengths: [lengths, lengths])
        #expect(driver.machine.phase == .ready)
        #expect(driver.machine.state.sequences[SequenceID(1)] == nil)
        let next = evict(&driver, at: .seconds(300))
        #expect(evictions(next) == [SequenceID(2)])
    }

    @Test("pins are durable, and recorded once")
    func pinCoding() throws {
        let record = SequenceRecord(id: SequenceID(3), name: "chat", model: ModelID(1))
        var pinned = SequenceEntry(record: record)
        pinned.retention.isPinned = true
        let (key, value) = StateCoding.encode(.sequence(pinned))
        #expect(try StateCoding.decode(key: key, value: #require(value)) == .sequence(pinned))
        var driver = try ready(sequences: 1)
        driver.confirm(driver.ask(.pin(name: "s1")))
        #expect(
            driver.persisted.contains { if case .sequence(let entry) = $0 { entry.retention.isPinned } else { false } })
        let count = driver.persisted.count
        _ = driver.ask(.pin(name: "s1"))
        #expect(driver.persisted.count == count)
    }
}
