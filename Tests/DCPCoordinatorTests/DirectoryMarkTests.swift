// SPDX-License-Identifier: Apache-2.0

import DCPCoordinator
import DCPCore
import DCPWire
import Testing

@Suite("CoordinatorMachine: an older state of the same epoch")
struct DirectoryMarkTests {
    /// With a model, and a sequence that came after the older state.
    private func cluster() throws -> (older: Driver, newer: Driver) {
        var driver = try Driver()
        driver.becomeReady()
        _ = try driver.carry(.registerModel(name: "m", try shape()))
        let older = driver
        _ = try driver.carry(.openSequence(name: "since", model: "m", revision: "", create: true))
        return (older, driver)
    }

    private func marks(_ actions: some Sequence<CoordinatorMachine.Action>, to rank: UInt16) -> [DirectoryMark] {
        actions.compactMap { action in
            guard case .send(.directoryMark(let mark), _, let link) = action, link == Driver.link(rank) else {
                return nil
            }
            return mark
        }
    }

    @Test("a rank that has seen a later mark refuses it, with the remedy; with the newest state service resumes")
    func refused() throws {
        let (older, newer) = try cluster()
        let told = try #require(marks(newer.actions, to: 1).last)
        #expect(told > older.machine.state.directoryMark && told <= newer.machine.state.directoryMark)
        let epoch = newer.machine.state.epoch
        #expect(older.machine.state.epoch == epoch)

        var restored = Driver(restarting: older)
        let actions = restored.register(1, cluster: Driver.cluster, epoch: epoch, directoryMark: told)
        let error = try #require(refusals(actions).first).error
        #expect(kinds(actions) == ["report", "send failure", "close"] && error.code == .storeRefused)
        for part in ["rank 1", "change \(told)", "\(older.machine.state.directoryMark)", "--adopt-ranks", "older copy"]
        {
            #expect(error.message.contains(part), "\(error)")
        }
        // A rank that knows nothing does not make it one.
        restored.register(0, cluster: Driver.cluster, epoch: epoch)
        #expect(restored.machine.phase == .incomplete)

        var restarted = Driver(restarting: newer)
        for rank: UInt16 in 0..<2 {
            let came = restarted.register(rank, cluster: Driver.cluster, epoch: epoch, directoryMark: told)
            #expect(refusals(came).isEmpty)
        }
        #expect(restarted.machine.phase == .joining)
    }

    @Test("marks of an earlier epoch do not apply to a later one; adopted ranks are not checked")
    func epochs() throws {
        let (older, newer) = try cluster()
        let (told, epoch) = (newer.machine.state.directoryMark, newer.machine.state.epoch)
        var next = Driver(restarting: older)
        for rank: UInt16 in 0..<2 { next.register(rank, cluster: Driver.cluster, epoch: epoch) }
        // One that was away, with a number of a history that an adoption has ended.
        next.on { $0.linkClosed(Driver.link(1), reason: ServiceError(.rankUnavailable, "gone")) }
        #expect(refusals(next.register(1, cluster: Driver.cluster, epoch: epoch, directoryMark: told)).isEmpty)

        var adopting = Driver(restarting: older, adopts: true)
        for rank: UInt16 in 0..<2 {
            let came = adopting.register(rank, cluster: Driver.cluster, epoch: epoch, directoryMark: told)
            #expect(refusals(came).isEmpty)
        }
        #expect(adopting.machine.phase == .joining)
    }

    @Test("a rank gets a new mark before each operation, with its lease, and once")
    func told() throws {
        var (_, driver) = try cluster()
        let sent = driver.send(.openSequence(name: "more", model: "m", revision: "", create: true))
        let now = driver.machine.state.directoryMark
        for rank: UInt16 in 0..<2 {
            let words = sent.compactMap { action -> String? in
                guard case .send(let message, _, let link) = action, link == Driver.link(rank) else { return nil }
                return "\(message.type)"
            }
            #expect(words == ["directoryMark", "operation"] && marks(sent, to: rank) == [now])
        }
        driver.confirm(sent)
        #expect(marks(driver.on { $0.renewed(Driver.link(0), now: .zero) }, to: 0).isEmpty)
        // Changes that only the coordinator records are reported with the lease.
        let pin = driver.on { $0.renewed(Driver.link(0), LeaseRenewal(stepsInFlight: 0, durableMark: 9), now: .zero) }
        #expect(marks(pin, to: 0).isEmpty)
        driver.on { $0.tick(now: .seconds(2)) }
        #expect(driver.machine.state.directoryMark > now)
        let renewed = driver.on { $0.renewed(Driver.link(0), now: .seconds(2)) }
        #expect(marks(renewed, to: 0) == [driver.machine.state.directoryMark])
        #expect(marks(driver.on { $0.renewed(Driver.link(0), now: .seconds(2)) }, to: 0).isEmpty)
    }

    @Test("while a backup begins no mark is sent, since the coordinator's copy is made before the ranks'")
    func backups() throws {
        var (_, driver) = try cluster()
        let asked = driver.send(many: [BeginCopy(waitMilliseconds: 10_000)])
        let held = driver.machine.state.directoryMark
        driver.on { $0.renewed(Driver.link(0), LeaseRenewal(stepsInFlight: 0, durableMark: 9), now: .zero) }
        driver.on { $0.tick(now: .seconds(2)) }
        #expect(driver.machine.state.directoryMark > held)
        #expect(marks(driver.on { $0.renewed(Driver.link(0), now: .seconds(2)) }, to: 0).isEmpty)
        for case .send(.copyRequest, let number, let link) in asked { driver.on { $0.copyHeld(link, number: number) } }
        let renewed = driver.on { $0.renewed(Driver.link(0), now: .seconds(3)) }
        #expect(marks(renewed, to: 0) == [driver.machine.state.directoryMark])
    }
}
