// SPDX-License-Identifier: Apache-2.0

import DCPCoordinator
import DCPCore
import DCPWire
import Testing

@Suite("Retention: which sequences go, and when")
struct RetentionTests {
    private func ready(evict: EvictionPolicy, sequences: Int = 4) throws -> Driver {
        var driver = try Driver(evict: evict, evictIdle: .seconds(10))
        driver.becomeReady()
        _ = try driver.carry(.registerModel(name: "m", shape()))
        for index in 1...sequences {
            _ = try driver.carry(.openSequence(name: "s\(index)", model: "m", revision: "", create: true))
        }
        driver.now = .seconds(100)
        return driver
    }

    private func keep(_ name: String, _ driver: inout Driver) throws {
        let claim = try driver.taken(name)
        driver.confirm(driver.send(many: [CloseSequence(name: name, claim: claim, keep: true)]))
    }

    private func retain(_ item: RetainSequence, _ driver: inout Driver) { driver.confirm(driver.send(many: [item])) }

    /// What a full rank would be asked to choose from, in its order.
    private func candidates(_ driver: inout Driver, at now: Duration) -> [UInt64] {
        let renewal = LeaseRenewal(
            stepsInFlight: 0, refusal: ServiceError(.storeFull, "Full.", rank: RankIndex(1)), evictionByteCount: 100,
            usedSequences: [])
        return driver.on { $0.renewed(Driver.link(1), renewal, now: now) }.compactMap { action -> [UInt64]? in
            guard case .send(.victimsRequest(let candidates), _, _) = action else { return nil }
            return candidates.map(\.value)
        }.first ?? []
    }

    @Test("kept sequences may go with the policy off, and nothing else")
    func keptAlone() throws {
        var driver = try ready(evict: .off)
        #expect(candidates(&driver, at: .seconds(200)).isEmpty)
        try keep("s3", &driver)
        #expect(driver.machine.page(ListSequences()).sequences.filter(\.retention.isKept).map(\.record.name) == ["s3"])
        #expect(candidates(&driver, at: .seconds(105)).isEmpty, "used 5 s ago")
        #expect(candidates(&driver, at: .seconds(200)) == [3])
    }

    @Test("kept ones go before others, of either the lower priority first, then the least recently used")
    func order() throws {
        var driver = try ready(evict: .lru, sequences: 6)
        try keep("s5", &driver)
        try keep("s2", &driver)
        retain(RetainSequence(name: "s1", priority: 7), &driver)
        retain(RetainSequence(name: "s6", priority: -1), &driver)
        retain(RetainSequence(name: "s4", isPinned: true), &driver)
        #expect(candidates(&driver, at: .seconds(200)) == [5, 2, 6, 3, 1])
    }

    @Test("a client that claims a kept sequence has it again; its earlier claim is invalid")
    func claimed() throws {
        var driver = try ready(evict: .off)
        let old = try driver.taken("s1")
        driver.confirm(driver.send(many: [CloseSequence(name: "s1", claim: old, keep: true)]))
        let late = driver.send(many: [TruncateSequence(name: "s1", length: 0, claim: old)])
        #expect(errors(late).map(\.code) == [.claimed])
        #expect(errors(driver.send(many: [OpenSequence(name: "s1", model: "", create: false)])).isEmpty)
        #expect(driver.machine.page(ListSequences()).sequences[0].retention.isKept, "looking at it changes nothing")
        _ = try driver.taken("s1")
        #expect(!driver.machine.page(ListSequences()).sequences[0].retention.isKept)
        #expect(candidates(&driver, at: .seconds(200)).isEmpty)
    }

    @Test("one that was not used for its time to live is closed; a use begins it anew, and a pin ends it")
    func age() throws {
        var driver = try ready(evict: .off)
        retain(RetainSequence(name: "s1", timeToLive: 60), &driver)
        retain(RetainSequence(name: "s2", isPinned: true, timeToLive: 60), &driver)
        func aged(_ now: Duration) -> [SequenceID] {
            let ids = operations(driver.on { $0.tick(now: now) }).compactMap { sent -> SequenceID? in
                if case .evict(let id) = sent.operation { id } else { nil }
            }
            return Array(Set(ids)).sorted()
        }
        for rank in [0, 1] as [UInt16] {
            let used = LeaseRenewal(stepsInFlight: 0, usedSequences: [SequenceID(1), SequenceID(2)])
            driver.on { $0.renewed(Driver.link(rank), used, now: .seconds(100)) }
        }
        func renew(_ now: Duration) {
            for rank in [0, 1] as [UInt16] { driver.on { $0.renewed(Driver.link(rank), now: now) } }
        }
        renew(.seconds(159))
        #expect(aged(.seconds(159)).isEmpty)
        renew(.seconds(161))
        #expect(aged(.seconds(161)) == [SequenceID(1)])
        let refusal = try driver.refusal(of: .truncate(name: "s1", length: 0))
        #expect(refusal.code == .evicted && refusal.message.contains("60 s"))
        renew(.seconds(900))
        #expect(aged(.seconds(900)).isEmpty)
    }

    @Test("a retention that is set during a join reaches the ranks when the join is over, and only then")
    func duringJoin() throws {
        var driver = try ready(evict: .off, sequences: 2)
        let model = try #require(driver.machine.state.models[ModelID(1)])
        for rank in 0..<2 as Range<UInt16> {
            driver.on { $0.linkClosed(Driver.link(rank), reason: ServiceError(.rankUnavailable, "gone")) }
        }
        for rank in 0..<2 as Range<UInt16> { driver.register(rank, epoch: driver.machine.state.epoch) }
        let lengths = [SequenceID(1): 0, SequenceID(2): 0]
        for rank in 0..<2 as Range<UInt16> {
            driver.register(rank, epoch: driver.machine.state.epoch, models: [model], lengths: lengths)
        }
        // All is compared; the ranks still connect to each other.
        #expect(driver.machine.phase == .joining)
        let sent = driver.send(many: [RetainSequence(name: "s2", isPinned: true)])
        #expect(kinds(sent) == ["persist", "answer reply"])
        driver.linksReady(0)
        let told = operations(driver.linksReady(1))
        #expect(driver.machine.phase == .ready)
        var pinned = Retention()
        pinned.isPinned = true
        #expect(told.map(\.operation) == [.retain(SequenceID(2), pinned), .retain(SequenceID(2), pinned)])
        #expect(told.map(\.link) == [Driver.link(0), Driver.link(1)])
    }

    @Test("retention is durable, recorded once, and comes back whole")
    func durable() throws {
        var driver = try ready(evict: .off, sequences: 1)
        let set = RetainSequence(name: "s1", isPinned: true, priority: -128, timeToLive: .max)
        let sent = driver.send(many: [set])
        #expect(kinds(sent) == ["persist", "send operation", "send operation", "answer reply"])
        #expect(kinds(driver.send(many: [set])) == ["answer reply"])
        let entry = try #require(driver.machine.state.sequences[SequenceID(1)])
        let (key, value) = StateCoding.encode(.sequence(entry))
        #expect(try StateCoding.decode(key: key, value: #require(value)) == .sequence(entry))
        #expect(entry.retention.priority == -128 && entry.retention.timeToLive == .max && entry.retention.isPinned)
    }
}
