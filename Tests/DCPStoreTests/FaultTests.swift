// SPDX-License-Identifier: Apache-2.0

import DCPStore
import DCPTestKit
import Foundation
import Glibc
import Synchronization
import Testing

/// A disk that fails on request, and remembers what a loss of power would leave.
final class FaultyDisk: Sendable {
    private let syncError = Atomic<Int32>(0)
    private let writeError = Atomic<Int32>(0)
    private let copies = Mutex<[Data]>([])
    private let synced = DispatchSemaphore(value: 0)

    func failSyncs(_ code: Int32) { syncError.store(code, ordering: .sequentiallyConsistent) }
    func failWrites(_ code: Int32) { writeError.store(code, ordering: .sequentiallyConsistent) }

    var faults: StoreFaults {
        StoreFaults(
            sync: { self.syncError.load(ordering: .sequentiallyConsistent) },
            write: { self.writeError.load(ordering: .sequentiallyConsistent) },
            synced: { path in
                let copy = (try? Data(contentsOf: URL(fileURLWithPath: path))) ?? Data()
                self.copies.withLock { $0.append(copy) }
                self.synced.signal()
            })
    }

    /// Waits for the next sync.
    func waitForSync() { synced.wait() }
    var syncs: Int { copies.withLock { $0.count } }
    var lastCopy: Data? { copies.withLock { $0.last } }

    /// The store as a loss of power at this moment leaves it, in a new directory.
    func afterPowerLoss() throws -> TemporaryDirectory {
        let directory = TemporaryDirectory()
        try FileManager.default.createDirectory(atPath: directory.path("store"), withIntermediateDirectories: true)
        try (lastCopy ?? Data()).write(to: URL(fileURLWithPath: directory.path("store/data.mdb")))
        return directory
    }
}

@Suite("disk that fails")
struct FaultTests {
    private func put(_ bench: Bench, _ key: String, byteCount: Int = 3, isFreeing: Bool = false) throws {
        let done = Outcome()
        let table = bench.table
        bench.writer.submit(
            WriteJob(
                isFreeing: isFreeing,
                body: { try $0.put(table, Array(key.utf8), [UInt8](repeating: 1, count: byteCount)) },
                completion: done.finish))
        try done.wait()
    }

    private func delete(_ bench: Bench, _ key: String) throws {
        let done = Outcome()
        let table = bench.table
        bench.writer.submit(
            WriteJob(isFreeing: true, body: { try $0.delete(table, Array(key.utf8)) }, completion: done.finish))
        try done.wait()
    }

    private func refusal(_ body: () throws -> Void) throws -> StoreError {
        do { try body() } catch let error as StoreError { return error }
        throw Refused()
    }

    /// The keys that a store has after its file was all that was left.
    private func keys(in directory: TemporaryDirectory) throws -> Set<String> {
        let environment = try Environment(
            directory: directory.path("store"), mapByteCountMax: 1 << 26, tablesMax: 2, durability: .never)
        defer { environment.close() }
        var setup = try environment.beginSetup()
        let table = try setup.openTable("t")
        var keys: Set<String> = []
        try setup.scan(table) { key, _ in
            keys.insert(String(decoding: key, as: UTF8.self))
            return true
        }
        return keys
    }

    @Test("power loss with always: everything that was acknowledged is there")
    func powerLossAlways() throws {
        let disk = FaultyDisk()
        let bench = try Bench(durability: .always)
        bench.environment.inject(disk.faults)
        for key in ["a", "b", "c"] {
            try put(bench, key)
            #expect(try keys(in: disk.afterPowerLoss()).contains(key), "synced before it was acknowledged")
        }
        #expect(disk.syncs == 3)
    }

    @Test("power loss with everysec: everything is there once the timer has synced, without another commit")
    func powerLossEverySecond() throws {
        let disk = FaultyDisk()
        let bench = try Bench(durability: .everysec)
        bench.environment.inject(disk.faults)
        try put(bench, "a")
        try put(bench, "b")
        disk.waitForSync()
        #expect(try keys(in: disk.afterPowerLoss()) == ["a", "b"])
        // Nothing to sync, no timer: the next sync is that of the next commit.
        #expect(disk.syncs == 1)
        try put(bench, "c")
        disk.waitForSync()
        #expect(try keys(in: disk.afterPowerLoss()) == ["a", "b", "c"])
        #expect(disk.syncs == 2)
    }

    @Test("power loss with never: what was synced last is a whole store; a stop syncs")
    func powerLossNever() throws {
        let disk = FaultyDisk()
        let bench = try Bench(durability: .never)
        bench.environment.inject(disk.faults)
        try put(bench, "a")
        try bench.environment.sync()
        try put(bench, "b")
        #expect(try keys(in: disk.afterPowerLoss()) == ["a"])
        bench.writer.close()
        #expect(disk.syncs == 2)
        #expect(try keys(in: disk.afterPowerLoss()) == ["a", "b"])
    }

    @Test("a failed sync stops all further writes, and marks the store", arguments: [Durability.always, .everysec])
    func failedSync(_ durability: Durability) throws {
        let disk = FaultyDisk()
        let bench = try Bench(durability: durability)
        bench.environment.inject(disk.faults)
        try bench.environment.markCreated()
        let conditions = Conditions()
        bench.writer.observeCondition { conditions.note($0) }
        try put(bench, "a")
        disk.failSyncs(EIO)
        if durability == .always {
            #expect(try refusal { try put(bench, "b") }.code == .damaged)
        } else {
            // Acknowledged, and lost with the sync that follows.
            try put(bench, "b")
        }
        let health = conditions.next()
        guard case .failed(let error) = health.condition else {
            Issue.record("the condition is \(health.condition)")
            return
        }
        #expect(error.code == .damaged && error.cause == EIO)
        // The disk works again; the lost writes stay lost.
        disk.failSyncs(0)
        let syncs = disk.syncs
        #expect(try refusal { try put(bench, "c") }.message.contains("nothing more is written"))
        #expect(try refusal { try delete(bench, "a") }.code == .damaged)
        #expect(try bench.value("a") == [1, 1, 1], "reading goes on")
        #expect(bench.environment.isSuspect)
        bench.writer.close()
        bench.environment.close()
        #expect(disk.syncs == syncs, "a stop does not sync what cannot be trusted")
        let reopened = try Environment(
            directory: bench.directory.path("store"), mapByteCountMax: 1 << 26, tablesMax: 2, durability: durability)
        #expect(reopened.isSuspect, "the mark is in the directory")
        try reopened.mark(suspect: false)
        reopened.close()
        let again = try Environment(
            directory: bench.directory.path("store"), mapByteCountMax: 1 << 26, tablesMax: 2, durability: durability)
        #expect(!again.isSuspect && again.wasCreated)
        again.close()
    }

    @Test("a store that cannot be marked after a failed sync says so, with what to do instead")
    func unmarkable() throws {
        let disk = FaultyDisk()
        let bench = try Bench(durability: .always)
        bench.environment.inject(disk.faults)
        // In the place of the mark, and not to be opened for writing.
        try FileManager.default.createDirectory(
            atPath: bench.directory.path("store/dcp-store.suspect"), withIntermediateDirectories: false)
        disk.failSyncs(EIO)
        let error = try refusal { try put(bench, "a") }
        #expect(error.code == .damaged && error.cause == EIO)
        #expect(error.message.contains("could not be marked") && error.message.contains("dcpctl verify"))
    }

    @Test("a store keeps its marks when its lock file is lost")
    func marks() throws {
        let directory = TemporaryDirectory()
        let path = directory.path("store")
        func open() throws -> Environment {
            try Environment(directory: path, mapByteCountMax: 1 << 24, tablesMax: 2, durability: .never)
        }
        var environment = try open()
        #expect(!environment.wasCreated && !environment.isSuspect)
        try environment.beginSetup().commit()
        for _ in 0..<2 {
            try environment.markCreated()
            try environment.mark(suspect: true)
        }
        environment.close()
        // As a loss of power leaves a file that was being written.
        try Data().write(to: URL(fileURLWithPath: path + "/dcp-store.lock"))
        environment = try open()
        #expect(environment.wasCreated && environment.isSuspect)
        for _ in 0..<2 { try environment.mark(suspect: false) }
        environment.close()
        environment = try open()
        #expect(environment.wasCreated && !environment.isSuspect)
        environment.close()
        try FileManager.default.removeItem(atPath: path + "/data.mdb")
        #expect(try refusal { _ = try open() }.code == .damaged)
    }

    @Test("the writer tells since when it is at something, and that it waits")
    func busy() throws {
        let bench = try Bench()
        let (entered, gate) = (DispatchSemaphore(value: 0), DispatchSemaphore(value: 0))
        let done = Outcome()
        bench.writer.submit(
            WriteJob(
                body: { _ in
                    entered.signal()
                    gate.wait()
                }, completion: done.finish))
        entered.wait()
        #expect(bench.writer.busySince != nil)
        gate.signal()
        try done.wait()
        bench.writer.close()
        #expect(bench.writer.busySince == nil)
    }

    @Test(
        "a failed sync fails the jobs that had to be synced, which are undone; the others have their own outcomes",
        arguments: [Durability.everysec, .never])
    func failedSyncOfGroup(_ durability: Durability) throws {
        let disk = FaultyDisk()
        let bench = try Bench(durability: durability)
        bench.environment.inject(disk.faults)
        let table = bench.table
        let outcomes = Outcomes()
        let undone = Mutex<[String]>([])
        func submit(_ name: String, isSynced: Bool, isRefused: Bool) {
            bench.writer.submit(
                WriteJob(
                    isSynced: isSynced,
                    body: {
                        if isRefused { throw Refused() }
                        try $0.put(table, Array(name.utf8), [1])
                    }, undo: { undone.withLock { $0.append(name) } }, completion: outcomes.record(name)))
        }
        let gate = bench.hold()
        submit("refused", isSynced: false, isRefused: true)
        submit("cut", isSynced: true, isRefused: false)
        submit("refused cut", isSynced: true, isRefused: true)
        submit("commit", isSynced: false, isRefused: false)
        submit("close", isSynced: true, isRefused: false)
        disk.failSyncs(EIO)
        gate.open()
        #expect(
            outcomes.wait(5) == ["refused failed", "cut failed", "refused cut failed", "commit", "close failed"])
        #expect(undone.withLock { $0 } == ["refused", "refused cut", "close", "cut"])
        #expect(bench.writer.transactionsCommitted == 1)
    }

    @Test("a disk that refuses writes fails commits, changes nothing, and is retried until it accepts them")
    func refusedWrite() throws {
        let disk = FaultyDisk()
        let bench = try Bench(durability: .never)
        bench.environment.inject(disk.faults)
        let conditions = Conditions()
        bench.writer.observeCondition { conditions.note($0) }
        try put(bench, "a")
        for code in [ENOSPC, EIO, EDQUOT] {
            disk.failWrites(code)
            let error = try refusal { try put(bench, "b", byteCount: 100_000) }
            #expect(error.code == .full && error.cause == code)
            #expect(try bench.value("b") == nil && bench.value("a") != nil)
            let health = conditions.next()
            #expect(health.condition == .refused(code))
            #expect(health.wantedByteCount >= 100_000)
            #expect(!bench.environment.isSuspect)
            // No commit any more: the probe finds the room.
            disk.failWrites(0)
            #expect(conditions.next().condition == .writable)
            #expect(bench.writer.health.wantedByteCount == 0)
        }
        try put(bench, "b", byteCount: 100_000)
    }

    @Test("a commit as large as the refused one ends the refusal; a smaller one does not")
    func endOfRefusal() throws {
        let disk = FaultyDisk()
        let bench = try Bench(durability: .never)
        bench.environment.inject(disk.faults)
        try put(bench, "a")
        disk.failWrites(ENOSPC)
        let (table, writer) = (bench.table, bench.writer)
        let small = Outcome()
        let seen = Mutex<StoreCondition?>(nil)
        // On the writer's thread, so that no probe comes between the two.
        writer.submit(
            WriteJob(
                body: { try $0.put(table, [1], [UInt8](repeating: 1, count: 1 << 20)) },
                completion: { _ in
                    disk.failWrites(0)
                    writer.submit(
                        WriteJob(
                            body: { try $0.put(table, [2], [1]) },
                            completion: { result in
                                seen.withLock { $0 = writer.health.condition }
                                small.finish(result)
                            }))
                }))
        try small.wait()
        #expect(seen.withLock { $0 } == .refused(ENOSPC))
        try put(bench, "b", byteCount: 1 << 20)
        #expect(bench.writer.health.condition == .writable)
    }

    @Test("watermarks: full above the high one until below the low one, and the writer says so at once")
    func watermarks() throws {
        let bench = try Bench(mapByteCountMax: 4 << 20)
        let conditions = Conditions()
        bench.writer.observeCondition { conditions.note($0) }
        let capacity = bench.writer.health.capacityByteCount
        #expect(capacity == 4 << 20)
        var written = 0
        while bench.writer.health.condition == .writable {
            try put(bench, "k\(written)", byteCount: 50_000)
            written += 1
        }
        #expect(conditions.next().condition == .full)
        #expect(bench.writer.health.usedByteCount >= Watermarks.standard.highByteCount(capacity: capacity))
        // Data is still taken, up to the capacity.
        try put(bench, "more", byteCount: 50_000)
        while bench.writer.health.condition == .full {
            written -= 1
            let used = bench.writer.health.usedByteCount
            #expect(used >= Watermarks.standard.lowByteCount(capacity: capacity))
            try delete(bench, "k\(written)")
        }
        #expect(conditions.next().condition == .writable)
        #expect(bench.writer.health.usedByteCount < Watermarks.standard.lowByteCount(capacity: capacity))
    }

    @Test("a limit of the disk holds for the file, whatever is written and deleted")
    func diskLimit() throws {
        for limit in [4 << 20, 16 << 20] {
            let bench = try Bench(mapByteCountMax: Environment.mapByteCountMax(fileByteCountMax: limit))
            for round in 0..<3 {
                var written = 0
                while (try? put(bench, "\(round)-\(written)", byteCount: 30_000)) != nil { written += 1 }
                #expect(written > 10)
                for index in 0..<written { try delete(bench, "\(round)-\(index)") }
            }
            var status = stat()
            stat(bench.directory.path("store/data.mdb"), &status)
            #expect(status.st_size <= limit && status.st_size > limit / 2)
        }
    }

    @Test("watermarks are ordered percentages")
    func watermarkRange() {
        #expect(Watermarks(high: 95, low: 90) == .standard)
        for (high, low) in [(90, 95), (50, 50), (101, 50), (50, 0)] { #expect(Watermarks(high: high, low: low) == nil) }
        #expect(Watermarks.standard.highByteCount(capacity: .max) > .max / 100 * 94)
        #expect(Watermarks.standard.lowByteCount(capacity: 1000) == 900)
    }
}

/// Conditions as they are reported, in order.
final class Conditions: Sendable {
    private let told = Mutex<[StoreHealth]>([])
    private let arrived = DispatchSemaphore(value: 0)

    func note(_ health: StoreHealth) {
        told.withLock { $0.append(health) }
        arrived.signal()
    }

    func next() -> StoreHealth {
        arrived.wait()
        return told.withLock { $0.removeFirst() }
    }
}

/// One job's outcome.
final class Outcome: Sendable {
    private let result = Mutex<Result<Void, any Error>?>(nil)
    private let arrived = DispatchSemaphore(value: 0)

    var finish: @Sendable (Result<Void, any Error>) -> Void {
        { result in
            self.result.withLock { $0 = result }
            self.arrived.signal()
        }
    }

    func wait() throws {
        arrived.wait()
        try result.withLock { $0 }?.get()
    }
}
