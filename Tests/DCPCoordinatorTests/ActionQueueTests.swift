// SPDX-License-Identifier: Apache-2.0

import DCPCoordinator
import DCPCore
import DCPWire
import Testing

@Suite("ActionQueue: what waits for a sync")
struct ActionQueueTests {
    /// Takes what may be done now.
    private func taken(_ queue: inout ActionQueue) -> [CoordinatorMachine.Action] {
        var actions: [CoordinatorMachine.Action] = []
        while let action = queue.next() { actions.append(action) }
        return actions
    }

    @Test(
        "a thousand clients that open sequences together cost two syncs, and each gets its answer when its own is durable"
    )
    func pipelined() throws {
        var driver = try Driver()
        driver.becomeReady()
        _ = try driver.carry(.registerModel(name: "m", try shape()))
        var queue = ActionQueue()
        var syncs: [[StateChange]] = []
        var asked: [CoordinatorMachine.Action] = []
        func work(_ queue: inout ActionQueue) {
            for action in taken(&queue) {
                if case .persist(let changes) = action { syncs.append(changes) } else { asked.append(action) }
            }
        }
        for number in 0..<1000 {
            queue.add(
                driver.send(.openSequence(name: "s\(number)", model: "m", revision: "", create: true)))
            work(&queue)
        }
        // The first is being written to the disk, and no message was sent yet.
        #expect(syncs.count == 1 && asked.isEmpty && queue.isPersisting)
        queue.persisted()
        work(&queue)
        #expect(syncs.count == 2 && operations(asked).count == 2, "the first, on both ranks")
        queue.persisted()
        work(&queue)
        #expect(syncs.count == 2 && operations(asked).count == 512, "as many as may be on their way to two ranks")
        let opened = syncs.flatMap { $0 }.compactMap { change -> String? in
            if case .sequence(let entry) = change { entry.record.name } else { nil }
        }
        #expect(opened == (0..<1000).map { "s\($0)" })
        #expect(syncs[1].last == .directoryMark(driver.machine.state.directoryMark))
    }

    @Test("a lease is renewed while a sync is on its way; all else keeps its order behind that")
    func leases() throws {
        var driver = try Driver()
        driver.becomeReady()
        var queue = ActionQueue()
        queue.add(driver.send(.registerModel(name: "m", try shape())))
        #expect(kinds(taken(&queue)) == ["persist"])
        queue.add(driver.on { $0.renewed(Driver.link(0), now: .zero) })
        #expect(kinds(taken(&queue)) == ["send leaseRenewed"])
        queue.persisted()
        #expect(kinds(taken(&queue)) == ["send operation", "send operation"])
    }
}
