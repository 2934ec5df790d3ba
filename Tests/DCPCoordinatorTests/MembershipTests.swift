// SPDX-License-Identifier: Apache-2.0

import DCPCoordinator
import DCPCore
import DCPWire
import Testing

private func orders(_ elements: [UInt16]) -> [[UInt16]] {
    guard elements.count > 1 else { return [elements] }
    return elements.indices.flatMap { index in
        var rest = elements
        let first = rest.remove(at: index)
        return orders(rest).map { [first] + $0 }
    }
}

@Suite("CoordinatorMachine: who is a member, and in which epoch")
struct MembershipTests {
    @Test("registration to ready in every order", arguments: [1, 2, 4])
    func ready(ranks: Int) throws {
        for order in orders((0..<UInt16(ranks)).map { $0 }) {
            var driver = try Driver(ranks: ranks)
            for (count, rank) in order.enumerated() {
                #expect(driver.machine.phase == .incomplete && driver.machine.state.epoch == .none)
                for missing in order[count...] { #expect(driver.machine.reason.contains("rank \(missing) missing")) }
                driver.register(rank)
            }
            #expect(driver.machine.phase == .joining && driver.machine.state.epoch == Epoch(1))
            for rank in order.reversed() {
                #expect(driver.machine.reason.contains("rank \(rank) is joining epoch 1"))
                driver.register(rank, epoch: Epoch(1))
                #expect(!driver.machine.reason.contains("rank \(rank) is joining"))
            }
            for rank in order {
                #expect(driver.machine.phase == .joining)
                #expect(driver.machine.reason.contains("rank \(rank) is connecting"))
                driver.linksReady(rank)
            }
            #expect(driver.machine.phase == .ready && driver.machine.reason == "")
            let last = driver.machine.topology
            #expect(last.phase == .ready && last.epoch == Epoch(1) && last.leaseMilliseconds == 5000)
            #expect(last.members.map(\.endpoint) == (0..<ranks).map { Endpoint.unix(path: "/rank-\($0)") })
            let told = topologies(driver.actions).filter { $0.topology.phase == .ready }.map(\.link)
            #expect(Set(told) == Set(order.map { Driver.link($0) }))
        }
    }

    @Test("links may be ready before another rank has joined")
    func linksFirst() throws {
        var driver = try Driver()
        driver.register(0)
        driver.register(1)
        driver.linksReady(0)
        driver.register(0, epoch: Epoch(1))
        driver.linksReady(1)
        #expect(driver.machine.phase == .joining)
        driver.register(1, epoch: Epoch(1))
        #expect(driver.machine.phase == .ready)
    }

    @Test("TRAPS 42: the epoch rises at every join, and is persisted before it is sent")
    func epochs() throws {
        var driver = try Driver()
        for epoch in 1...4 as ClosedRange<UInt64> {
            let from = driver.actions.count
            driver.becomeReady()
            #expect(driver.machine.state.epoch == Epoch(epoch) && driver.machine.phase == .ready)
            var isPersisted = false
            for action in driver.actions[from...] {
                if case .persist(let changes) = action, changes.contains(.epoch(Epoch(epoch))) { isPersisted = true }
                for (topology, _) in topologies([action]) where topology.epoch == Epoch(epoch) { #expect(isPersisted) }
            }
            #expect(isPersisted)
            driver.on { $0.linkClosed(Driver.link(1), reason: ServiceError(.rankUnavailable, "gone")) }
            driver.on { $0.linkClosed(Driver.link(0), reason: ServiceError(.rankUnavailable, "gone")) }
        }
    }

    @Test("a rank index twice: another store is refused by both names; the same store replaces the older connection")
    func twice() throws {
        var driver = try Driver()
        driver.register(0)
        let other = StoreID(high: 9, low: 9)
        let refused = driver.register(0, store: other, link: LinkID(50))
        #expect(refusals(refused).map(\.link) == [LinkID(50)])
        #expect(refusals(refused)[0].error.code == .conflict)
        for name in ["rank 0", "\(other)", "\(Driver.store(0))", "--rank"] {
            #expect(refusals(refused)[0].error.message.contains(name))
        }
        let replaced = driver.register(0, link: LinkID(51))
        #expect(refusals(replaced).map(\.link) == [Driver.link(0)])
        driver.register(1)
        // The end of the older connection does not count as a loss.
        driver.on { $0.linkClosed(Driver.link(0), reason: ServiceError(.rankUnavailable, "gone")) }
        #expect(driver.machine.phase == .joining)
    }

    @Test("a rank outside the cluster, or two ranks on one connection, are refused")
    func outside() throws {
        var driver = try Driver()
        let outside = refusals(driver.register(2))
        #expect(outside.map(\.error.code) == [.invalidConfiguration] && outside[0].error.message.contains("0..<2"))
        driver.register(0)
        let both = refusals(driver.register(1, link: Driver.link(0)))
        #expect(both.map(\.error.code) == [.protocolViolation])
    }

    @Test("another store for a known rank is refused with the remedy, unless an operator has given it up; once")
    func otherStore() throws {
        var first = try Driver()
        first.becomeReady()
        var driver = Driver(restarting: first)
        let other = StoreID(high: 9, low: 9)
        let refused = refusals(driver.register(1, store: other))
        #expect(refused.map(\.error.code) == [.storeRefused])
        #expect(
            refused[0].error.message.contains("dcpctl store replace 1") && refused[0].error.message.contains("\(other)")
        )
        #expect(driver.machine.state.stores[RankIndex(1)] == Driver.store(1))

        var replacing = try Driver(losses: [RankLoss(RankIndex(1), .store(Driver.store(1)))])
        replacing.register(1)
        replacing.on { $0.linkClosed(Driver.link(1), reason: ServiceError(.rankUnavailable, "gone")) }
        let taken = replacing.register(1, store: other)
        #expect(refusals(taken).isEmpty && replacing.persisted.contains(.store(RankIndex(1), other)))
        replacing.on { $0.linkClosed(Driver.link(1), reason: ServiceError(.rankUnavailable, "gone")) }
        #expect(refusals(replacing.register(1, store: StoreID(high: 8, low: 8))).map(\.error.code) == [.storeRefused])

        // A loss names the lost store: it covers neither a later store of the rank nor another rank's.
        var wrong = Driver(restarting: replacing, losses: [RankLoss(RankIndex(1), .store(Driver.store(1)))])
        #expect(refusals(wrong.register(1, store: StoreID(high: 8, low: 8))).map(\.error.code) == [.storeRefused])
    }

    @Test("a store is given up only by its id or its mark, and not while its rank is here")
    func givenUp() throws {
        var driver = try Driver()
        driver.becomeReady()
        let rank = RankIndex(1)
        func refusal(_ loss: StoreLoss, of rank: RankIndex) -> ServiceError? {
            do throws(ServiceError) {
                try driver.machine.giveUp(loss, of: rank)
                return nil
            } catch { return error }
        }
        #expect(refusal(.store(Driver.store(1)), of: rank)?.message.contains("is registered") == true)
        driver.on { $0.linkClosed(Driver.link(1), reason: ServiceError(.rankUnavailable, "gone")) }
        #expect(refusal(.store(Driver.store(0)), of: rank)?.message.contains("\(Driver.store(1))") == true)
        #expect(refusal(.changes(1), of: rank)?.code == .conflict)
        #expect(refusal(.store(Driver.store(1)), of: RankIndex(7))?.message.contains("no store") == true)
        #expect(driver.machine.recordedStores.map(\.isHere) == [true, false])
        let other = StoreID(high: 9, low: 9)
        #expect(refusals(driver.register(1, store: other)).map(\.error.code) == [.storeRefused])
        #expect(refusal(.store(Driver.store(1)), of: rank) == nil)
        #expect(refusals(driver.register(1, store: other)).isEmpty)
        #expect(driver.machine.recordedStores.map(\.store) == [Driver.store(0), other])
    }

    @Test("a store is remembered before its rank counts")
    func storePersisted() throws {
        var driver = try Driver(ranks: 1)
        let actions = kinds(driver.register(0))
        let persist = try #require(actions.firstIndex(of: "persist"))
        let told = try #require(actions.firstIndex(of: "send topology"))
        #expect(persist < told && driver.persisted.contains(.store(RankIndex(0), Driver.store(0))))
    }

    @Test("a rank that has seen a newer epoch is refused: this state is lost or another cluster's")
    func newerEpoch() throws {
        var driver = try Driver()
        driver.becomeReady()
        var restarted = Driver(restarting: driver)
        let refused = refusals(restarted.register(0, epoch: Epoch(2)))
        #expect(refused.map(\.error.code) == [.storeRefused])
        #expect(refused[0].error.message.contains("epoch 2") && refused[0].error.message.contains("only epoch 1"))
        #expect(refusals(restarted.register(0, epoch: Epoch(1))).isEmpty)
    }

    @Test("a lease ends by the clock alone: at its end it holds, after it the rank is lost and named")
    func lease() throws {
        var driver = try Driver()
        driver.becomeReady()
        driver.on { $0.renewed(Driver.link(0), now: .seconds(4)) }
        #expect(driver.on { $0.tick(now: .seconds(5)) }.isEmpty)
        let actions = driver.on { $0.tick(now: .seconds(5) + .nanoseconds(1)) }
        #expect(refusals(actions).map(\.link) == [Driver.link(1)])
        #expect(refusals(actions)[0].error.message.contains("rank 1"))
        #expect(
            driver.machine.phase == .incomplete
                && driver.machine.reason.contains(
                    "rank 1 missing (it sent nothing")
        )
        #expect(topologies(actions).map(\.link) == [Driver.link(0)])
        #expect(driver.on { $0.tick(now: .seconds(9)) }.isEmpty)
        #expect(refusals(driver.on { $0.tick(now: .seconds(10)) }).map(\.link) == [Driver.link(0)])
    }

    @Test("a renewal is answered, of a member only")
    func renewal() throws {
        var driver = try Driver()
        driver.register(0)
        #expect(kinds(driver.on { $0.renewed(Driver.link(0), now: .zero) }) == ["send leaseRenewed"])
        #expect(driver.on { $0.renewed(Driver.link(1), now: .zero) }.isEmpty)
    }

    @Test("registrations and links of an older epoch do not count")
    func older() throws {
        var driver = try Driver(ranks: 1)
        driver.becomeReady()
        driver.register(0, link: LinkID(50), epoch: Epoch(1))
        #expect(driver.machine.phase == .joining && driver.machine.state.epoch == Epoch(2))
        driver.register(0, link: LinkID(50), epoch: Epoch(1))
        driver.on { $0.linksReady(LinkID(50), epoch: Epoch(1), now: .zero) }
        #expect(driver.machine.reason.contains("rank 0 is joining epoch 2"))
    }

    @Test("waiting clients are answered when the cluster is ready, or at their deadline with the reason")
    func waiters() throws {
        var driver = try Driver()
        func tag(_ number: UInt64) -> Tag { Tag(client: ClientID(1), number: number) }
        let atOnce = driver.on { $0.topologyRequest(Driver.client, tag(1), wait: .zero, now: .zero) }
        #expect(answeredTopologies(atOnce).map(\.phase) == [.incomplete])
        #expect(answeredTopologies(atOnce)[0].reason.contains("rank 0 missing"))
        for (number, wait) in [(2, 1), (3, 3)] as [(UInt64, Int)] {
            let now = driver.on {
                $0.topologyRequest(Driver.client, tag(number), wait: .seconds(wait), now: .zero)
            }
            #expect(now.isEmpty)
        }
        let gone = LinkID(101)
        driver.on { $0.topologyRequest(gone, tag(4), wait: .seconds(3), now: .zero) }
        driver.on { $0.linkClosed(gone, reason: ServiceError(.rankUnavailable, "gone")) }
        #expect(driver.on { $0.tick(now: .milliseconds(999)) }.isEmpty)
        #expect(answeredTopologies(driver.on { $0.tick(now: .seconds(1)) }).map(\.phase) == [.incomplete])
        let from = driver.actions.count
        driver.becomeReady()
        let answers = driver.actions[from...].compactMap { action -> UInt64? in
            guard case .answer(.reply(let body), let tag, Driver.client) = action,
                let topology = try? body.reply(to: GetTopology.self)
            else { return nil }
            #expect(topology.phase == .ready)
            return tag.number
        }
        #expect(answers == [3])
        let ready = driver.on { $0.topologyRequest(Driver.client, tag(5), wait: .seconds(9), now: .zero) }
        #expect(answeredTopologies(ready).map(\.phase) == [.ready])
    }
}
