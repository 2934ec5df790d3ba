// SPDX-License-Identifier: Apache-2.0

import DCPCoordinator
import DCPCore
import DCPWire
import Testing

@Suite("CoordinatorMachine: a join of many sequences")
struct LargeJoinTests {
    private static let count = 3 * Reconciliation.pieceCount + 5
    private let model: ModelRecord

    init() throws { model = ModelRecord(id: ModelID(1), name: "m", description: try shape()) }

    private func state() throws -> CoordinatorState {
        let shape = try ClusterShape(ranks: 2, headGroups: 1, interleave: 1, blockTokens: 16, exchange: .allToAll)
        var state = CoordinatorState(shape: shape, cluster: Driver.cluster)
        state.apply(.model(model))
        for number in 1...UInt64(Self.count) {
            let record = SequenceRecord(id: SequenceID(number), name: "s\(number)", model: model.id)
            state.apply(.sequence(SequenceEntry(record: record)))
        }
        return state
    }

    private func held(length: Int, from first: Int = 1) -> [SequenceID: Int] {
        Dictionary(uniqueKeysWithValues: (first...Self.count).map { (SequenceID(UInt64($0)), length) })
    }

    /// Both ranks have registered in a new epoch, rank 0 with all and a token more, rank 1 without the first three.
    private func join(_ driver: inout Driver) {
        driver.goesOn = false
        driver.pageCount = HeldSequences.countMax
        for rank in 0..<2 as Range<UInt16> { driver.register(rank, epoch: driver.machine.state.epoch) }
        for rank in 0..<2 as Range<UInt16> {
            driver.register(
                rank, cluster: Driver.cluster, epoch: driver.machine.state.epoch, models: [model],
                lengths: rank == 0 ? held(length: 5) : held(length: 4, from: 4))
            driver.linksReady(rank)
        }
    }

    private func isGoingOn(_ actions: [CoordinatorMachine.Action]) -> Bool {
        actions.contains { if case .goOn = $0 { true } else { false } }
    }

    @Test("is computed and carried out in pieces, and no operation is sent before all are known")
    func pieces() throws {
        var driver = Driver(state: try state())
        join(&driver)
        #expect(isGoingOn(driver.actions))
        var (turns, asked) = (0, 0)
        while true {
            let actions = driver.on { $0.goOn(now: .zero) }
            turns += 1
            let isAsking = !operations(actions).isEmpty
            // Four and four of counting uses, four of comparing, four and four of looking up, one that ends it.
            #expect(isAsking == (turns > 21) || !isGoingOn(actions), "turn \(turns)")
            let before = driver.actions.count
            driver.confirm(actions)
            asked += operations(actions).count + operations(Array(driver.actions[before...])).count
            guard isGoingOn(actions) else { break }
        }
        // Four pieces of operations, and the turn that finds none.
        #expect(turns == 21 + 5)
        #expect(driver.machine.phase == .ready)
        // All are cut on rank 0; rank 1 makes three.
        #expect(asked == Self.count + 3)
        #expect(driver.on { $0.goOn(now: .zero) }.isEmpty)
    }

    @Test("in the midst of it leases are renewed; a rank that is lost ends it, and the next join is whole")
    func lost() throws {
        var driver = Driver(state: try state())
        join(&driver)
        driver.on { $0.goOn(now: .zero) }
        let renewed = driver.on { $0.renewed(Driver.link(0), now: .seconds(1)) }
        #expect(renewed.contains { if case .send(.leaseRenewed, _, _) = $0 { true } else { false } })
        driver.on { $0.linkClosed(Driver.link(1), reason: ServiceError(.rankUnavailable, "gone")) }
        #expect(driver.on { $0.goOn(now: .seconds(1)) }.isEmpty)
        driver.on { $0.linkClosed(Driver.link(0), reason: ServiceError(.rankUnavailable, "gone")) }
        join(&driver)
        while true {
            let actions = driver.on { $0.goOn(now: .seconds(1)) }
            driver.confirm(actions)
            guard isGoingOn(actions) else { break }
        }
        #expect(driver.machine.phase == .ready)
    }

    @Test("pages of another epoch count for nothing, and a rank that tells of more than twice the limit is refused")
    func refused() throws {
        var driver = Driver(state: try state(), sequencesMax: Self.count / 3)
        driver.goesOn = false
        driver.pageCount = HeldSequences.countMax
        for rank in 0..<2 as Range<UInt16> { driver.register(rank, epoch: driver.machine.state.epoch) }
        let epoch = driver.machine.state.epoch
        let held = held(length: 5).map {
            HeldSequences.Element(sequence: $0.key, model: model.id, committedLength: $0.value)
        }
        let registration = Registration(
            rank: RankIndex(0), store: Driver.store(0), cluster: Driver.cluster, endpoint: .unix(path: "/rank-0"),
            epoch: epoch, models: [model])
        driver.on { $0.registered(registration, link: Driver.link(0), now: .zero) }
        driver.tell(held, Driver.link(0), Epoch(epoch.value - 1))
        #expect(refusals(driver.actions).isEmpty)
        driver.tell(held, Driver.link(0), epoch)
        let refusal = try #require(refusals(driver.actions).first)
        #expect(refusal.link == Driver.link(0) && refusal.error.code == .storeRefused)
        #expect(refusal.error.message.contains("\(Self.count / 3 * 2)"))
    }
}
