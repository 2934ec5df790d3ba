// SPDX-License-Identifier: Apache-2.0

import DCPCache
import DCPCore
import DCPStore
import DCPTestKit
import Foundation
import Glibc
import Synchronization
import Testing

/// A disk that fails on request, and remembers what a loss of power would leave.
private final class Disk: Sendable {
    private let syncError = Atomic<Int32>(0)
    private let writeError = Atomic<Int32>(0)
    private let copy = Mutex(Data())
    private let synced = DispatchSemaphore(value: 0)

    var faults: StoreFaults {
        StoreFaults(
            sync: { self.syncError.load(ordering: .sequentiallyConsistent) },
            write: { self.writeError.load(ordering: .sequentiallyConsistent) },
            synced: { path in
                let now = (try? Data(contentsOf: URL(fileURLWithPath: path))) ?? Data()
                self.copy.withLock { $0 = now }
                self.synced.signal()
            })
    }

    func failSyncs(_ code: Int32) { syncError.store(code, ordering: .sequentiallyConsistent) }
    func failWrites(_ code: Int32) { writeError.store(code, ordering: .sequentiallyConsistent) }
    func waitForSync() { synced.wait() }
    /// What is on it when nothing is synced.
    func lose(all data: Data) { copy.withLock { $0 = data } }
    var lastCopy: Data { copy.withLock { $0 } }
}

@Suite("durability")
struct DurabilityTests {
    private func tags(_ count: Int) -> [UInt32] { (0..<UInt32(count)).map { $0 &* 7 } }

    private func rig(_ durability: Durability, _ disk: Disk, path: String? = nil) throws -> Rig {
        var settings = ShardCache.Settings(mapByteCountMax: 1 << 28, durability: durability)
        settings.faults = disk.faults
        let rig = try Rig(settings: settings, path: path)
        if path == nil { try rig.open(1) }
        return rig
    }

    /// The rank after a loss of power: the file as last synced remains.
    private func afterPowerLoss(_ disk: Disk, _ body: (Rig) throws -> Void) throws {
        let directory = TemporaryDirectory()
        let path = directory.path("store")
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        try disk.lastCopy.write(to: URL(fileURLWithPath: path + "/data.mdb"))
        try Data().write(to: URL(fileURLWithPath: path + "/dcp-store.created"))
        let rig = try Rig(path: path)
        try body(rig)
    }

    @Test("always: after a loss of power at any moment, what was acknowledged last is there")
    func always() throws {
        let disk = Disk()
        let rig = try rig(.always, disk)
        for length in stride(from: 5, through: 40, by: 5) {
            try rig.appendAll(1, at: length - 5, Array(tags(length)[(length - 5)...]))
            try rig.commit(1, length)
            try afterPowerLoss(disk) { (survivor: Rig) throws in
                #expect(try survivor.state(1).committedLength == Position(length))
                #expect(try survivor.holds(1, tags(length)))
            }
        }
    }

    @Test("everysec: a loss of power leaves what was synced last; the timer syncs without another commit")
    func everySecond() throws {
        let disk = Disk()
        let rig = try rig(.everysec, disk)
        try rig.appendAll(1, at: 0, tags(20))
        try rig.commit(1, 20)
        // At most two: the timer may have run for the opening already.
        repeat { disk.waitForSync() } while try lengthAfterPowerLoss(disk) < 20
        try rig.appendAll(1, at: 20, Array(tags(33)[20...]))
        try rig.commit(1, 33)
        try afterPowerLoss(disk) { (survivor: Rig) throws in
            let length = try survivor.state(1).committedLength.value
            #expect(length == 20 || length == 33)
            #expect(try survivor.holds(1, tags(length)))
        }
    }

    private func lengthAfterPowerLoss(_ disk: Disk) throws -> Int {
        var length = 0
        try afterPowerLoss(disk) { length = $0.cache.state(of: SequenceID(1))?.committedLength.value ?? 0 }
        return length
    }

    @Test("a truncation or a close that a killed process has done already is on the disk when it is repeated")
    func repeated() throws {
        let first = try rig(.never, Disk())
        try first.open(2)
        try first.appendAll(1, at: 0, tags(40))
        try first.appendAll(2, at: 0, tags(20))
        try first.commit(1, 40)
        try first.commit(2, 20)
        let committed = try first.quietData()
        try first.truncate(1, 20)
        try first.close(2)
        let changed = try first.quietData()
        // On the disk are the commits alone; the kernel has the rest.
        for (isClose, wanted) in [(false, 20), (true, 0)] {
            let directory = TemporaryDirectory()
            let path = directory.path("store")
            try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
            try changed.write(to: URL(fileURLWithPath: path + "/data.mdb"))
            try Data().write(to: URL(fileURLWithPath: path + "/dcp-store.created"))
            let disk = Disk()
            disk.lose(all: committed)
            let survivor = try rig(.never, disk, path: path)
            if isClose { try survivor.close(2) } else { try survivor.truncate(1, 20) }
            let id = UInt64(isClose ? 2 : 1)
            try afterPowerLoss(disk) { (rank: Rig) throws in
                #expect(rank.cache.state(of: SequenceID(id))?.committedLength.value ?? 0 == wanted)
            }
        }
    }

    @Test("never: a stop syncs, and that is what a loss of power leaves")
    func never() throws {
        let disk = Disk()
        let rig = try rig(.never, disk)
        try rig.appendAll(1, at: 0, tags(20))
        try rig.commit(1, 20)
        rig.cache.close()
        try afterPowerLoss(disk) { (survivor: Rig) throws in #expect(try survivor.holds(1, tags(20))) }
    }

    @Test("a failed sync of a shared transaction: a refused commit stays refused, cuts and closes are not half done")
    func failedSyncOfGroup() throws {
        let disk = Disk()
        let rig = try rig(.never, disk)
        for id in 1...4 as ClosedRange<UInt64> {
            try rig.open(id)
            try rig.appendAll(id, at: 0, tags(40))
            try rig.commit(id, id == 3 ? 20 : 40)
        }
        let gate = rig.hold()
        let (cut, refused, good, closed) = (Pending(), Pending(), Pending(), Pending())
        rig.cache.truncate(SequenceID(1), length: 10, completion: cut.finish)
        rig.cache.commit([(SequenceID(2), 1000)], completion: refused.finish)
        rig.cache.commit([(SequenceID(3), 40)], completion: good.finish)
        rig.cache.close(SequenceID(4), completion: closed.finish)
        disk.failSyncs(EIO)
        gate.signal()
        expect(.storeDamaged, "nothing more is written") { try cut.wait() }
        expect(.positionMismatch, "1000") { try refused.wait() }
        try good.wait()
        expect(.storeDamaged, "nothing more is written") { try closed.wait() }
        // As before, until the restart that decides.
        for id in 1...4 as ClosedRange<UInt64> {
            #expect(try rig.state(id).committedLength == 40)
            #expect(try rig.holds(id, tags(40)))
            try rig.append(id, layer: 0, at: 40, [1])
        }
    }

    @Test("a failed sync: commits fail, the context is read on, and opening again verifies before it serves")
    func failedSync() throws {
        let disk = Disk()
        let rig = try rig(.always, disk)
        try rig.appendAll(1, at: 0, tags(40))
        try rig.commit(1, 40)
        try rig.appendAll(1, at: 40, [1, 2, 3])
        disk.failSyncs(EIO)
        expect(.storeDamaged, "nothing more is written", "restart") { try rig.commit(1, 43) }
        disk.failSyncs(0)
        // A second attempt succeeds on a kernel that has forgotten; not here.
        expect(.storeDamaged) { try rig.commit(1, 43) }
        expect(.storeDamaged) { try rig.truncate(1, 10) }
        // Nobody is told that a sequence is unknown whose opening was refused.
        expect(.storeDamaged) { try rig.open(2) }
        expect(.storeDamaged, "nothing more is written", "restart") { try rig.append(2, layer: 0, at: 0, [1]) }
        #expect(rig.cache.refusal?.code == .storeDamaged)
        #expect(try rig.state(1).committedLength == 40)
        #expect(try rig.holds(1, tags(40)))
        try rig.reopen()
        let found = try #require(rig.cache.reverification)
        // Two layers of two sealed blocks of 16 tokens.
        #expect(found.progress.blocks == 4 && found.findings.isEmpty && found.damagedSequences.isEmpty)
        #expect(rig.cache.refusal == nil)
        #expect(try rig.holds(1, tags(40)))
        try rig.reopen()
        #expect(rig.cache.reverification == nil, "once")
    }

    @Test("data lost by a failed sync are detected when the store is opened again, and not served")
    func lostBlock() throws {
        let disk = Disk()
        let rig = try rig(.always, disk)
        try rig.open(2)
        try rig.appendAll(1, at: 0, tags(40))
        try rig.appendAll(2, at: 0, tags(40))
        try rig.commit(1, 40)
        try rig.commit(2, 40)
        disk.failSyncs(EIO)
        expect(.storeDamaged) { try rig.open(3) }
        disk.failSyncs(0)
        // The page of a block of sequence 1, as if it had never reached the disk.
        try rig.edit { data in
            let magic = Data("DCPB".utf8)
            let first = try #require(data.range(of: magic)?.lowerBound)
            data.resetBytes(in: first + 48..<first + 100)
        }
        let found = try #require(rig.cache.reverification)
        #expect(found.damagedSequences.count == 1)
        let damaged = try #require(found.damagedSequences.first).value
        try rig.settle()
        #expect(try rig.state(damaged).intactLength < 40)
        expect(.storeDamaged, "fails its checksum") { _ = try rig.holds(damaged, tags(40)) }
        #expect(try rig.holds(3 - damaged, tags(40)))
    }

    @Test("a disk that refuses writes: new tokens are refused, appended ones wait, deletions are tried again")
    func refusedWrites() throws {
        let disk = Disk()
        let rig = try rig(.never, disk)
        let conditions = Mutex<[StoreCondition]>([])
        let changed = DispatchSemaphore(value: 0)
        rig.cache.observeCondition { health in
            conditions.withLock { $0.append(health.condition) }
            changed.signal()
        }
        try rig.appendAll(1, at: 0, tags(40))
        try rig.commit(1, 20)
        disk.failWrites(ENOSPC)
        expect(.storeFull, "disk is full") { try rig.commit(1, 40) }
        changed.wait()
        let refusal = try #require(rig.cache.refusal)
        #expect(refusal.code == .storeFull && refusal.isRetryable)
        #expect(refusal.message.contains("rank 0") && refusal.message.contains("No space left on device"))
        #expect(rig.cache.evictionByteCount > 0)
        #expect(try rig.state(1).committedLength == 20 && rig.holds(1, tags(40)))
        disk.failWrites(0)
        // By the probe, without a commit.
        changed.wait()
        #expect(conditions.withLock { $0 } == [.refused(ENOSPC), .writable])
        #expect(rig.cache.refusal == nil)
        try rig.commit(1, 40)
        try rig.reopen()
        #expect(try rig.holds(1, tags(40)))
    }
}
