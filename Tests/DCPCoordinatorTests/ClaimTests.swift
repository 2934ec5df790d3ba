// SPDX-License-Identifier: Apache-2.0

import DCPCoordinator
import DCPCore
import DCPWire
import Testing

/// A request of a client that died may come at any time. Each test is one order of arrival.
@Suite("CoordinatorMachine: claims on sequences")
struct ClaimTests {
    private func ready() throws -> Driver {
        var driver = try Driver()
        driver.becomeReady()
        _ = try driver.carry(.registerModel(name: "m", try shape()))
        for name in ["s", "t"] {
            _ = try driver.carry(.openSequence(name: name, model: "m", revision: "", create: true))
        }
        return driver
    }

    private static func changes(of name: String, _ claim: Claim) -> [DirectoryRequest] {
        [
            .truncate(name: name, length: 3, claim: claim),
            .fork(name: name, newName: "u", length: 3, claim: claim), .close(name: name, claim: claim),
        ]
    }

    @Test("requests after the successor's claim are refused finally, and nothing is recorded", arguments: 0..<3)
    func late(_ kind: Int) throws {
        var driver = try ready()
        let old = try driver.taken("s")
        let new = try driver.taken("s")
        #expect(old < new)
        let before = driver.machine.state
        let refused = driver.send(Self.changes(of: "s", old)[kind])
        #expect(kinds(refused) == ["answer failure"])
        let error = try #require(errors(refused).first)
        #expect(error.code == .claimed && !error.isRetryable)
        #expect(error.message.contains("`s`") && error.message.contains("\(old)"), "\(error)")
        #expect(driver.machine.state == before)
        // The successor's own is taken, and so is that on another sequence.
        #expect(operations(driver.send(Self.changes(of: "s", new)[kind])).count == 2)
        let other = try driver.taken("t")
        #expect(operations(driver.send(.truncate(name: "t", length: 1, claim: other))).count == 2)
    }

    @Test("every rank has a claim before its holder gets the answer")
    func told() throws {
        var driver = try ready()
        let asked = driver.sendClaim("s")
        let carried = operations(asked)
        #expect(carried.count == 2 && replies(asked).isEmpty)
        guard case .claim(SequenceID(1), let claim, holder: "") = carried[0].operation else {
            Issue.record("\(carried[0].operation)")
            return
        }
        #expect(carried[1].operation == .claim(SequenceID(1), claim, holder: ""))
        #expect(driver.on { $0.operationDone(carried[0].link, number: carried[0].number) }.isEmpty)
        let done = driver.on { $0.operationDone(carried[1].link, number: carried[1].number) }
        // Nothing is recorded: a claim is good for as long as its epoch.
        #expect(kinds(done) == ["answer reply"] && replies(done)[0].claim == claim)
    }

    @Test("a rank's refusal of a claim is the client's answer, and nothing is rolled back")
    func refused() throws {
        var driver = try ready()
        let carried = operations(driver.sendClaim("s"))
        let refusal = ServiceError(.storeDamaged, "Damaged.")
        driver.on { $0.operationFailed(carried[0].link, number: carried[0].number, refusal) }
        let done = driver.on { $0.operationDone(carried[1].link, number: carried[1].number) }
        #expect(errors(done).map(\.code) == [.storeDamaged] && operations(done).isEmpty)
        #expect(driver.claim("s") != nil)
    }

    @Test("a claim succeeds the one that is held, unless another client has claimed the sequence since")
    func held() throws {
        var driver = try ready()
        let first = try driver.taken("s")
        let next = driver.claim("s", held: first)
        let kept = try #require(next)
        #expect(kept > first)
        // A claim whose answer was lost is of the same client: it goes on from the one before.
        #expect(driver.claim("s", held: first) != nil)
        driver.confirm(driver.sendClaim("s", client: ClientID(2)))
        let refused = driver.sendClaim("s", held: kept)
        #expect(errors(refused).map(\.code) == [.claimed] && operations(refused).isEmpty)
        #expect(operations(driver.sendClaim("s", held: kept, client: ClientID(2))).count == 2)
        // What was before a restart of the coordinator, it does not know; ranks do.
        var restarted = Driver(restarting: driver)
        let lengths = [SequenceID(1): 5, SequenceID(2): 5]
        restarted.becomeReady(models: driver.machine.state.models.map(\.value), lengths: [lengths, lengths])
        #expect(restarted.claim("s", held: kept) != nil)
    }

    @Test("operations accepted earlier are carried out on all ranks before these get the claim", arguments: 0..<3)
    func underWay(_ kind: Int) throws {
        var driver = try ready()
        let old = try driver.taken("s")
        let carried = operations(driver.send(Self.changes(of: "s", old)[kind]))
        #expect(carried.count == 2)
        let isClosing = kind == 2
        if isClosing {
            // Being closed, it is not there any more for anybody.
            #expect(errors(driver.sendClaim("s")).map(\.code) == [.unknownSequence])
        } else {
            #expect(driver.sendClaim("s").isEmpty)
        }
        // Claims on other sequences do not wait for it.
        #expect(driver.claim("t") != nil)
        let first = driver.on { $0.operationDone(carried[0].link, number: carried[0].number) }
        #expect(operations(first).map(\.link) == (isClosing ? [] : [carried[0].link]) && replies(first).isEmpty)
        // A rank that fails temporarily gets the operation again, and the claim waits for it.
        if kind != 1 {
            let busy = ServiceError(.storeFull, "Busy.")
            #expect(driver.on { $0.operationFailed(carried[1].link, number: carried[1].number, busy) }.isEmpty)
            let now = driver.now
            #expect(operations(driver.on { $0.tick(now: now) }).map(\.link) == [carried[1].link])
        }
        let done = driver.on { $0.operationDone(carried[1].link, number: carried[1].number) }
        // It is durable that nothing is owed any more before the successor hears.
        #expect(kinds(done).contains("persist") && replies(done).allSatisfy { $0.claim == .none })
        let before = driver.actions.count
        driver.confirm(first + done)
        let claims = replies(Array(driver.actions[before...])).map(\.claim).filter { $0 != .none }
        #expect(claims.count == (isClosing ? 0 : 1))
        for claim in claims {
            #expect(claim > old)
            #expect(errors(driver.send(.truncate(name: "s", length: 0, claim: old))).map(\.code) == [.claimed])
        }
    }

    @Test("a claim that waits refuses older requests already")
    func waiting() throws {
        var driver = try ready()
        let old = try driver.taken("s")
        let carried = operations(driver.send(.truncate(name: "s", length: 9, claim: old)))
        #expect(driver.sendClaim("s").isEmpty)
        #expect(errors(driver.send(.truncate(name: "s", length: 3, claim: old))).map(\.code) == [.claimed])
        let before = driver.actions.count
        driver.confirm(carried.map { .send(.operation($0.operation), number: $0.number, to: $0.link) })
        #expect(replies(Array(driver.actions[before...])).count == 2, "the truncation's and the claim's")
    }

    @Test("a claim that waits when a rank is lost is answered so, retryably; the truncation is over before the next")
    func rankLost() throws {
        var driver = try ready()
        let old = try driver.taken("s")
        _ = driver.send(.truncate(name: "s", length: 2, claim: old))
        #expect(driver.sendClaim("s").isEmpty)
        let gone = ServiceError(.rankUnavailable, "Gone.")
        let lost = driver.on { $0.linkClosed(Driver.link(1), reason: gone) }
        #expect(errors(lost).map(\.code) == [.rankUnavailable, .rankUnavailable])
        // Only what is recorded is called so.
        #expect(errors(lost).map { $0.message.contains("recorded") } == [true, false])
        #expect(errors(driver.sendClaim("s")).map(\.code) == [.notReady])
        // The rejoin carries it out; the cluster is not ready, and nothing claimed, before.
        driver.on { $0.linkClosed(Driver.link(0), reason: gone) }
        let lengths = [SequenceID(1): 5, SequenceID(2): 5]
        let before = driver.actions.count
        driver.becomeReady(models: driver.machine.state.models.map(\.value), lengths: [lengths, lengths])
        #expect(operations(driver.actions[before...]).map(\.operation).contains(.truncate(SequenceID(1), length: 2)))
        let claim = try driver.taken("s")
        #expect(claim.isOf(driver.machine.state.epoch) && claim > old && !old.isOf(driver.machine.state.epoch))
    }

    @Test("a client that is gone is not answered")
    func clientGone() throws {
        var driver = try ready()
        let old = try driver.taken("s")
        let carried = operations(driver.send(.truncate(name: "s", length: 2, claim: old)))
        driver.sendClaim("s")
        driver.on { $0.linkClosed(Driver.client, reason: ServiceError(.rankUnavailable, "Gone.")) }
        for (_, number, link) in carried {
            #expect(replies(driver.on { $0.operationDone(link, number: number) }) == [])
        }
    }

    @Test("after a restart of the coordinator a claim of before it is refused, until its holder claims anew")
    func restart() throws {
        var driver = try ready()
        let old = try driver.taken("s")
        var restarted = Driver(restarting: driver)
        let lengths = [SequenceID(1): 5, SequenceID(2): 5]
        restarted.becomeReady(models: driver.machine.state.models.map(\.value), lengths: [lengths, lengths])
        #expect(errors(restarted.send(.truncate(name: "s", length: 1, claim: old))).map(\.code) == [.staleEpoch])
        let new = try restarted.taken("s")
        #expect(new > old)
        #expect(operations(restarted.send(.truncate(name: "s", length: 1, claim: new))).count == 2)
    }

    @Test("a late request under a name does not reach the sequence that was opened under it since")
    func reopened() throws {
        var driver = try ready()
        let old = try driver.taken("s")
        _ = try driver.carry(.close(name: "s"))
        _ = try driver.carry(.openSequence(name: "s", model: "m", revision: "", create: true))
        for request in Self.changes(of: "s", old) {
            #expect(errors(driver.send(request)).map(\.code) == [.staleEpoch], "\(request)")
        }
        for request in Self.changes(of: "s", .none) {
            #expect(errors(driver.send(request)).map(\.code) == [.staleEpoch], "\(request)")
        }
    }
}
