// SPDX-License-Identifier: Apache-2.0

import DCPCoordinator
import DCPCore
import DCPTransport
import DCPWire
import Testing

@Suite("Rights in the directory")
struct RightsTests {
    private static let alice = Caller(identity: "client:alice", right: .use)
    private static let bob = Caller(identity: "client:bob", right: .use)
    private static let reader = Caller(identity: "client:eve", right: .read)
    private static let admin = Caller(identity: "client:root", right: .administer)

    /// A cluster with model `m`.
    private func ready() throws -> Driver {
        var driver = try Driver()
        driver.becomeReady()
        _ = try driver.carry(.registerModel(name: "m", try shape()))
        return driver
    }

    private func refusal(_ actions: [CoordinatorMachine.Action]) -> ServiceError? {
        actions.lazy.compactMap { action -> ServiceError? in
            if case .answer(let message, _, _) = action { DirectoryRequest.refusal(in: message) } else { nil }
        }.first
    }

    private func open(_ name: String, create: Bool = true) -> DirectoryRequest {
        .openSequence(name: name, model: "m", revision: "", create: create)
    }

    @Test("a new model takes the right to administer; one that is known is confirmed to who uses it")
    func models() throws {
        var driver = try ready()
        let known = DirectoryRequest.registerModel(name: "m", try shape())
        let new = DirectoryRequest.registerModel(name: "n", try shape())
        #expect(refusal(driver.send(known, from: Self.alice)) == nil)
        let denied = refusal(driver.send(new, from: Self.alice))
        #expect(denied?.code == .accessDenied && denied?.message.contains("`n`") == true)
        #expect(refusal(driver.send(new, from: Self.admin)) == nil)
    }

    @Test("a reader opens existing sequences, and creates nothing")
    func readers() throws {
        var driver = try ready()
        #expect(refusal(driver.send(open("s"), from: Self.reader))?.code == .accessDenied)
        driver.confirm(driver.send(open("s"), from: Self.alice))
        #expect(refusal(driver.send(open("s", create: false), from: Self.reader)) == nil)
        #expect(refusal(driver.send(open("s"), from: Self.reader)) == nil)
    }

    @Test("only its owner and administrators may claim, fork, cut and close a sequence")
    func owners() throws {
        var driver = try ready()
        driver.confirm(driver.send(open("s"), from: Self.alice))
        #expect(driver.machine.state.sequences[SequenceID(1)]?.owner == "client:alice")
        let claim = DirectoryRequest.claim(SequenceID(1), held: .none)
        for other in [Self.bob, Self.reader] {
            let denied = refusal(driver.send(claim, from: other))
            #expect(denied?.code == .accessDenied, "\(other)")
        }
        for caller in [Self.alice, Self.admin] {
            let asked = driver.send(claim, from: caller)
            // Ranks learn who holds the claim.
            let holders = operations(asked).map { operation -> String in
                if case .claim(_, _, let holder) = operation.operation { holder } else { "none" }
            }
            #expect(holders == [caller.identity, caller.identity])
            driver.confirm(asked)
        }
        // A claim's number can be guessed; that does not help.
        let latest = driver.claim("s") ?? .none
        let guesses: [DirectoryRequest] = [
            .truncate(name: "s", length: 1, claim: latest), .close(name: "s", claim: latest),
            .fork(name: "s", newName: "t", length: 1, claim: latest),
        ]
        for guess in guesses {
            let actions = driver.send(guess, from: Self.bob)
            let denied = refusal(actions)
            // The journal has it, too.
            #expect(
                actions.contains {
                    if case .report(.refused(peer: "client:bob", .missingRight, _)) = $0 { true } else { false }
                })
            #expect(denied?.code == .accessDenied && denied?.message.contains("client:alice") == true)
        }
        driver.confirm(driver.send(guesses[2], from: Self.admin))
        #expect(driver.machine.state.sequences[SequenceID(2)]?.owner == "client:root")
        driver.confirm(driver.send(guesses[1], from: Self.alice))
        #expect(driver.machine.state.sequences[SequenceID(1)] == nil)
    }

    @Test("a canary's sequence has no owner, whoever created it")
    func canaries() throws {
        var driver = try ready()
        driver.confirm(driver.send(.openCanary(name: ".canary"), from: Self.alice))
        #expect(refusal(driver.send(.claim(SequenceID(1), held: .none), from: Self.bob)) == nil)
    }
}
