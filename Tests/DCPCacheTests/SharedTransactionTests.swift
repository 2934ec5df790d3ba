// SPDX-License-Identifier: Apache-2.0

import DCPCache
import DCPCore
import DCPStore
import DCPTestKit
import Foundation
import Glibc
import Synchronization
import Testing

/// Jobs that share a transaction change sequences which share blocks: none of them alone sees which blocks lose their
/// last owner.
@Suite("transactions of several jobs")
struct SharedTransactionTests {
    private func tags(_ count: Int) -> [UInt32] { (0..<UInt32(count)).map { $0 &* 11 } }

    /// Nothing is damaged, and nothing is left that no sequence refers to.
    private func expectClean(_ rig: Rig, _ what: String) throws {
        try rig.settle()
        let verdict = try Verdict(rig.cache.verification())
        #expect(verdict.findings.isEmpty, "\(what): \(verdict.findings.map(\.message))")
    }

    /// Submits operations while the writer is held, so that they share a transaction where they may.
    /// - Returns: the transactions that it took.
    private func together(_ rig: Rig, _ operations: [(ShardCache, @escaping CacheCompletion) -> Void]) throws -> Int {
        let before = try rig.cache.statistics().transactionsCommitted
        let gate = rig.hold()
        let pending = operations.map { operation in
            let pending = Pending()
            operation(rig.cache, pending.finish)
            return pending
        }
        gate.signal()
        for outcome in pending { try outcome.wait() }
        return try rig.cache.statistics().transactionsCommitted - before
    }

    private func close(_ id: UInt64) -> (ShardCache, @escaping CacheCompletion) -> Void {
        { $0.close(SequenceID(id), completion: $1) }
    }

    private func truncate(_ id: UInt64, _ length: Int) -> (ShardCache, @escaping CacheCompletion) -> Void {
        { $0.truncate(SequenceID(id), length: Position(length), completion: $1) }
    }

    private func fork(
        _ parent: UInt64, _ child: UInt64, _ length: Int
    ) -> (ShardCache, @escaping CacheCompletion) -> Void {
        { $0.fork(parent: SequenceID(parent), child: SequenceID(child), length: Position(length), completion: $1) }
    }

    private func commit(_ id: UInt64, _ length: Int) -> (ShardCache, @escaping CacheCompletion) -> Void {
        { $0.commit([(SequenceID(id), Position(length))], completion: $1) }
    }

    @Test(
        "forks of one parent share a transaction, their own forks and a change of the parent do not",
        arguments: [40, 31, 20])
    func forks(_ length: Int) throws {
        let rig = try family()
        let forks = try together(rig, (10..<20).map { fork(1, $0, length) })
        #expect(forks == 1)
        // Seals the block that the forks end in, and lets its rows go, where that is the open one.
        try rig.appendAll(1, at: 40, tags(20))
        let others = try together(rig, [fork(1, 20, length), fork(20, 21, length), commit(1, 60), fork(1, 22, length)])
        #expect(others == 3, "the commit shares with the fork of the fork")
        try expectClean(rig, "forks at \(length)")
        for _ in 0..<2 {
            for id in 10...22 as ClosedRange<UInt64> { #expect(try rig.holds(id, Array(tags(40)[..<length]))) }
            try rig.reopen()
        }
    }

    /// A parent of 40 tokens and two forks of it, at 40 and at 33: two whole blocks are shared by all.
    private func family() throws -> Rig {
        let rig = try Rig()
        try rig.open(1)
        try rig.appendAll(1, at: 0, tags(40))
        try rig.commit(1, 40)
        try rig.fork(1, 2, 40)
        try rig.fork(1, 3, 33)
        return rig
    }

    @Test(
        "a parent and its forks closed in one transaction leave nothing",
        arguments: [[1, 2, 3], [3, 1, 2], [2, 3, 1]])
    func closes(order: [UInt64]) throws {
        let rig = try family()
        // One for the closes, and perhaps one that recycles the freed pages.
        #expect(try together(rig, order.map(close)) <= 2)
        try expectClean(rig, "\(order)")
        #expect(try rig.cache.statistics().sealedBlocks == 0)
    }

    @Test("a cut and a close in one transaction leave what the cut keeps", arguments: [0, 10, 16, 20, 32])
    func truncateAndClose(length: Int) throws {
        let rig = try family()
        #expect(try together(rig, [truncate(1, length), close(2), close(3)]) <= 2)
        try expectClean(rig, "cut to \(length)")
        #expect(try rig.holds(1, tags(length)))
        #expect(try rig.cache.statistics().sealedBlocks == length / 16 * rig.shape.layers)
    }

    @Test("a failed transaction is rolled back, and its jobs leave nothing when they run alone")
    func retried() throws {
        let refusals = Atomic(0)
        var settings = ShardCache.Settings(mapByteCountMax: 1 << 28, durability: .never)
        settings.faults = StoreFaults(write: {
            refusals.compareExchange(expected: 1, desired: 0, ordering: .sequentiallyConsistent).exchanged ? ENOSPC : 0
        })
        let rig = try Rig(settings: settings)
        try rig.open(1)
        try rig.appendAll(1, at: 0, tags(40))
        try rig.commit(1, 40)
        try rig.fork(1, 2, 40)
        refusals.store(1, ordering: .sequentiallyConsistent)
        _ = try together(rig, [close(1), truncate(2, 20)])
        #expect(refusals.load(ordering: .sequentiallyConsistent) == 0)
        try expectClean(rig, "retried")
        #expect(try rig.holds(2, tags(20)))
    }

    @Test("any forks, cuts and closes in shared transactions: no block is lost, and none is left", arguments: 0..<4)
    func random(_ variant: Int) throws {
        var generator = SeededGenerator("shared transactions \(variant)")
        generator = SeededGenerator(generator, variant)
        let refusals = Atomic(0)
        var settings = ShardCache.Settings(mapByteCountMax: 1 << 28, durability: variant % 2 == 0 ? .never : .everysec)
        settings.faults = StoreFaults(write: {
            refusals.compareExchange(expected: 1, desired: 0, ordering: .sequentiallyConsistent).exchanged ? ENOSPC : 0
        })
        let rig = try Rig(settings: settings)
        var lengths: [UInt64: Int] = [:]
        var nextID: UInt64 = 1
        for round in 0..<60 {
            if lengths.count < 3 {
                try rig.open(nextID)
                let length = Int.random(in: 0...100, using: &generator)
                try rig.appendAll(nextID, at: 0, tags(length))
                try rig.commit(nextID, length)
                lengths[nextID] = length
                nextID += 1
            }
            // Descendants share what their ancestors wrote, whichever of them still lives.
            for _ in 0..<Int.random(in: 0...3, using: &generator) {
                let parent = try #require(lengths.keys.sorted().randomElement(using: &generator))
                let length = Int.random(in: 0...lengths[parent]!, using: &generator)
                try rig.fork(parent, nextID, length)
                lengths[nextID] = length
                nextID += 1
            }
            var operations: [(ShardCache, @escaping CacheCompletion) -> Void] = []
            var log: [String] = []
            for id in lengths.keys.sorted().shuffled(using: &generator) {
                switch Int.random(in: 0..<10, using: &generator) {
                case ..<4:
                    operations.append(close(id))
                    log.append("close \(id)")
                    lengths[id] = nil
                case ..<6:
                    let length = Int.random(in: 0...lengths[id]!, using: &generator)
                    operations.append(truncate(id, length))
                    log.append("truncate \(id) to \(length)")
                    lengths[id] = length
                case 6:
                    let (child, length) = (nextID, Int.random(in: 0...lengths[id]!, using: &generator))
                    nextID += 1
                    operations.append {
                        $0.fork(
                            parent: SequenceID(id), child: SequenceID(child), length: Position(length), completion: $1)
                    }
                    log.append("fork \(id) to \(child) at \(length)")
                    lengths[child] = length
                default: break
                }
            }
            // Now and then the shared transaction fails, and each runs alone.
            if Int.random(in: 0..<4, using: &generator) == 0, operations.count > 1 {
                refusals.store(1, ordering: .sequentiallyConsistent)
            }
            _ = try together(rig, operations)
            refusals.store(0, ordering: .sequentiallyConsistent)
            try expectClean(rig, "round \(round): \(log.joined(separator: ", "))")
            for (id, length) in lengths {
                let isWhole = try rig.holds(id, tags(length))
                #expect(isWhole, "round \(round), sequence \(id) of \(length): \(log.joined(separator: ", "))")
            }
        }
        try rig.reopen()
        for (id, length) in lengths { #expect(try rig.holds(id, tags(length))) }
    }
}
