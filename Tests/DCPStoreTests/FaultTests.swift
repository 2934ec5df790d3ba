// SPDX-License-Identifier: Apache-2.0

import DCPStore
import DCPTestKit
import Foundation
import Glibc
import Synchronization
import Testing

@Suite("disk that fails")
struct FaultTests {
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
        let (disk, bench) = try FaultyDisk.under(.always)
        for key in ["a", "b", "c"] {
            try bench.put(key)
            #expect(try keys(in: disk.afterPowerLoss()).contains(key), "synced before it was acknowledged")
        }
        #expect(disk.syncs == 3)
    }

    @Test("power loss with everysec: everything is there once the timer has synced, without another commit")
    func powerLossEverySecond() throws {
        let (disk, bench) = try FaultyDisk.under(.everysec)
        try bench.put("a")
        try bench.put("b")
        disk.waitForSync()
        #expect(try keys(in: disk.afterPowerLoss()) == ["a", "b"])
        // Nothing to sync, no timer: the next sync is that of the next commit.
        #expect(disk.syncs == 1)
        try bench.put("c")
        disk.waitForSync()
        #expect(try keys(in: disk.afterPowerLoss()) == ["a", "b", "c"])
        #expect(disk.syncs == 2)
    }

    @Test("power loss with never: what was synced last is a whole store; a stop syncs")
    func powerLossNever() throws {
        let (disk, bench) = try FaultyDisk.under(.never)
        try bench.put("a")
        try bench.environment.sync()
        try bench.put("b")
        #expect(try keys(in: disk.afterPowerLoss()) == ["a"])
        bench.writer.close()
        #expect(disk.syncs == 2)
        #expect(try keys(in: disk.afterPowerLoss()) == ["a", "b"])
    }

    @Test("a job that must be on the disk and changes nothing has what it found synced, also of the process before")
    func syncedWithoutChange() throws {
        let (disk, bench) = try FaultyDisk.under(.never)
        func check() throws {
            let done = Outcome()
            bench.writer.submit(WriteJob(isSynced: true, body: { _ in }, completion: done.finish))
            try done.wait()
        }
        try check()
        #expect(disk.syncs == 1, "nobody knows what the process before has left")
        try bench.put("a")
        #expect(disk.syncs == 1)
        for _ in 0..<2 {
            try check()
            #expect(disk.syncs == 2, "once")
            #expect(try keys(in: disk.afterPowerLoss()) == ["a"])
        }
        try bench.put("b")
        disk.failSyncs(EIO)
        #expect(try refusal { try check() }.code == .damaged)
    }

    @Test("a failed sync stops all further writes, and marks the store", arguments: [Durability.always, .everysec])
    func failedSync(_ durability: Durability) throws {
        let (disk, bench) = try FaultyDisk.under(durability)
        try bench.environment.markCreated()
        let conditions = Conditions()
        bench.writer.observeCondition { conditions.note($0) }
        try bench.put("a")
        disk.failSyncs(EIO)
        if durability == .always {
            #expect(try refusal { try bench.put("b") }.code == .damaged)
        } else {
            // Acknowledged, and lost with the sync that follows.
            try bench.put("b")
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
        #expect(try refusal { try bench.put("c") }.message.contains("nothing more is written"))
        #expect(try refusal { try bench.delete("a") }.code == .damaged)
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
        let (disk, bench) = try FaultyDisk.under(.always)
        // In the place of the mark, and not to be opened for writing.
        try FileManager.default.createDirectory(
            atPath: bench.directory.path("store/dcp-store.suspect"), withIntermediateDirectories: false)
        disk.failSyncs(EIO)
        let error = try refusal { try bench.put("a") }
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
        let (disk, bench) = try FaultyDisk.under(durability)
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
}
