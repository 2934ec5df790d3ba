// SPDX-License-Identifier: Apache-2.0

import DCPCache
import DCPCore
import Foundation
import Testing

/// Blocks of 16 tokens on one rank: 44 tokens are two sealed blocks and 12 rows.
@Suite("rows that forks share")
struct SharedRowsTests {
    private static let tags = (0..<UInt32(200)).map { $0 &* 77 &+ 3 }

    private func rig() throws -> Rig {
        let rig = try Rig()
        try rig.open(1)
        try rig.appendAll(1, at: 0, Array(Self.tags[..<44]))
        try rig.commit(1, 44)
        return rig
    }

    private func others(_ salt: UInt32, _ count: Int) -> [UInt32] { (0..<UInt32(count)).map { $0 &+ 1000 &* salt } }

    @Test("a fork in the open block writes no row and takes no memory until it appends", arguments: [33, 43, 44])
    func open(_ length: Int) throws {
        let rig = try rig()
        let before = try rig.cache.statistics().memoryByteCount
        for id in 2...9 as ClosedRange<UInt64> { try rig.fork(1, id, length) }
        #expect(try rig.cache.statistics().memoryByteCount == before)
        try rig.appendAll(9, at: length, others(9, 1))
        #expect(try rig.cache.statistics().memoryByteCount == 2 * before)
        #expect(try rig.rows().count == 12)
        try rig.reopen()
        for id in 2...9 as ClosedRange<UInt64> { #expect(try rig.holds(id, Array(Self.tags[..<length]))) }
    }

    @Test("forks in one place of a sealed block share the rows that the first has written")
    func sealed() throws {
        let rig = try rig()
        for id in 2...9 as ClosedRange<UInt64> { try rig.fork(1, id, 31) }
        #expect(try rig.rows().count == 12 + 15)
        try rig.reopen()
        for id in 2...9 as ClosedRange<UInt64> { #expect(try rig.holds(id, Array(Self.tags[..<31]))) }
        // Another process knows nothing of the first.
        try rig.fork(1, 10, 31)
        #expect(try rig.rows().count == 12 + 15 + 15)
    }

    enum Change: CaseIterable {
        case cutAndGoOn, goOn, close, none
        /// Of the parent: the same place is another.
        case replaceParent
    }

    @Test(
        "a fork gets its parent's tokens, whatever the fork before it in the same place did", arguments: Change.allCases
    )
    func sibling(_ change: Change) throws {
        let rig = try rig()
        try rig.fork(1, 2, 30)
        switch change {
        case .cutAndGoOn:
            try rig.truncate(2, 20)
            try rig.appendAll(2, at: 20, others(5, 10))
            try rig.commit(2, 30)
        case .goOn:
            try rig.appendAll(2, at: 30, others(5, 10))
            try rig.commit(2, 40)
        case .close: try rig.close(2)
        case .none: break
        case .replaceParent:
            try rig.truncate(1, 20)
            try rig.appendAll(1, at: 20, others(6, 20))
            try rig.commit(1, 40)
        }
        try rig.fork(1, 3, 30)
        try rig.appendAll(3, at: 30, others(7, 20))
        try rig.commit(3, 50)
        let shared = change == .replaceParent ? Array(Self.tags[..<20]) + others(6, 10) : Array(Self.tags[..<30])
        for _ in 0..<2 {
            #expect(try rig.holds(3, shared + others(7, 20)))
            if change == .replaceParent { #expect(try rig.holds(2, Array(Self.tags[..<30]))) }
            if change == .cutAndGoOn { #expect(try rig.holds(2, Array(Self.tags[..<20]) + others(5, 10))) }
            try rig.reopen()
        }
    }

    @Test("a row goes with the last that has it")
    func lifetime() throws {
        let rig = try rig()
        try rig.fork(1, 2, 40)
        try rig.fork(2, 3, 36)
        // Seals the block that both have a part of.
        try rig.appendAll(1, at: 44, others(1, 10))
        try rig.commit(1, 54)
        #expect(try rig.rows().count == 8 + 6)
        try rig.reopen()
        #expect(try rig.holds(2, Array(Self.tags[..<40])) && rig.holds(3, Array(Self.tags[..<36])))
        try rig.truncate(2, 34)
        #expect(try rig.rows().count == 4 + 6)
        try rig.reopen()
        try rig.close(3)
        #expect(try rig.rows().count == 2 + 6)
        try rig.reopen()
        #expect(try rig.holds(1, Array(Self.tags[..<44]) + others(1, 10)))
        #expect(try rig.holds(2, Array(Self.tags[..<34])))
        try rig.close(2)
        try rig.close(1)
        #expect(try rig.rows() == [])
    }

    @Test("rewinding, cutting or extending a parent does not change the block that its fork borrows", arguments: 0..<3)
    func borrowed(_ change: Int) throws {
        let rig = try rig()
        try rig.appendAll(1, at: 44, others(1, 2))
        try rig.fork(1, 2, 45)
        try rig.fork(2, 3, 45)
        switch change {
        case 0: try rig.cache.rewind(sequence: SequenceID(1), length: 44)
        case 1: try rig.truncate(1, 35)
        default: break
        }
        let length = [44, 35, 46][change]
        try rig.appendAll(1, at: length, others(6, 30))
        let own = Array(Self.tags[..<44]) + others(1, 1)
        #expect(try rig.holds(2, own) && rig.holds(3, own))
        try rig.cache.rewind(sequence: SequenceID(2), length: 44)
        try rig.appendAll(2, at: 44, others(8, 3))
        try rig.close(1)
        #expect(try rig.holds(2, Array(Self.tags[..<44]) + others(8, 3)))
        #expect(try rig.holds(3, own))
        try rig.close(2)
        try rig.commit(3, 45)
        try rig.reopen()
        #expect(try rig.holds(3, own))
    }

    @Test("a shared row that is damaged is damage of all that have it, and of none that ends before")
    func damaged() throws {
        let rig = try rig()
        try rig.fork(1, 2, 40)
        try rig.fork(1, 3, 34)
        let row = StepRows.stored(tag: Self.tags[36], layer: 1, shape: rig.shape, cluster: rig.cluster)
        try rig.flip(Data(row), at: 9)
        let verdict = try rig.verifyStopped()
        #expect(verdict.damage.map(\.kind) == [.row, .row])
        #expect(verdict.damage.map(\.sequence) == [SequenceID(1), SequenceID(2)])
        #expect(verdict.damage.map(\.intactLength) == [36, 36])
        try rig.reopen()
        #expect(try rig.holds(3, Array(Self.tags[..<34])))
        expect(.storeDamaged, "token 36 of sequence #2") { _ = try rig.holds(2, Array(Self.tags[..<40])) }
    }

    @Test("eviction counts a shared row with the last that has it")
    func victims() throws {
        let rig = try rig()
        // Its own: nothing but two rows.
        try rig.fork(1, 2, 44)
        try rig.appendAll(2, at: 44, others(1, 2))
        try rig.commit(2, 46)
        try rig.fork(1, 3, 44)
        func victims(_ order: [UInt64]) -> [UInt64] {
            rig.cache.victims(among: order.map { SequenceID($0) }, freeing: 1).map(\.value)
        }
        #expect(victims([3, 1]) == [])
        #expect(victims([3, 2, 1]) == [2])
        #expect(victims([1, 3, 2]) == [1, 3, 2])
    }
}
