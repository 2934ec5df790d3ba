// SPDX-License-Identifier: Apache-2.0

import DCPCoordinator
import DCPCore
import DCPWire
import Testing

@Suite("the canaries' model")
struct CanaryTests {
    private func ready() throws -> Driver {
        var driver = try Driver(ranks: 2)
        driver.becomeReady()
        _ = try driver.carry(.registerModel(name: "m", shape()))
        return driver
    }

    @Test("the coordinator describes it, under a number of its own, once")
    func model() throws {
        var driver = try ready()
        let first = try driver.carry(.openCanary(name: ".canary"))
        let record = try #require(first.models.first)
        #expect(record.id == .canary && record.name == ".canary")
        #expect(try record.description == driver.machine.state.shape.canaryModel())
        #expect(try driver.carry(.openCanary(name: ".canary-1")).models == [record])
        #expect(driver.machine.state.models.count == 2)
        #expect(first.sequences.map(\.model) == [.canary])
        // The next model's number is as if there were none.
        #expect(try driver.carry(.registerModel(name: "n", shape())).models.map(\.id) == [ModelID(2)])
    }

    @Test("opened again it is the same sequence, also while ranks are still told of it")
    func again() throws {
        var driver = try ready()
        let asked = driver.send(.openCanary(name: ".canary"))
        // Answered with the first.
        #expect(driver.send(.openCanary(name: ".canary")).isEmpty)
        driver.confirm(asked)
        #expect(driver.machine.state.sequences.values.map(\.record.name) == [".canary"])
        #expect(try driver.carry(.openCanary(name: ".canary")).sequences.map(\.id) == [SequenceID(1)])
    }

    @Test("nobody else has its names: no model, no sequence, no fork")
    func names() throws {
        var driver = try ready()
        _ = try driver.carry(.openSequence(name: "s", model: "m", revision: "", create: true))
        for request: DirectoryRequest in [
            .registerModel(name: ".canary", try shape()), .registerModel(name: ".x", try shape()),
            .openSequence(name: ".canary", model: "m", revision: "", create: true), .openCanary(name: "canary"),
            .fork(name: "s", newName: ".canary-2", length: 0),
        ] {
            #expect(try driver.refusal(of: request).code == .invalidRequest)
        }
        // As it is registered nobody has to be refused; otherwise described it is another.
        _ = try driver.carry(.openCanary(name: ".canary"))
        #expect(try driver.refusal(of: .registerModel(name: ".canary", try shape())).code == .modelMismatch)
        #expect(
            try driver.refusal(of: .openSequence(name: "t", model: ".canary", revision: "", create: true)).code
                == .invalidRequest)
    }

    @Test("it is removed and made anew as any other, and outlives the coordinator")
    func removed() throws {
        var driver = try ready()
        _ = try driver.carry(.openCanary(name: ".canary"))
        _ = try driver.carry(.close(name: ".canary"))
        _ = try driver.carry(.removeModel(name: ".canary"))
        #expect(driver.machine.state.models[.canary] == nil)
        #expect(try driver.carry(.openCanary(name: ".canary")).models.map(\.id) == [.canary])
    }
}
