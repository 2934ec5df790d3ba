// SPDX-License-Identifier: Apache-2.0

import DCPStore
import DCPTestKit
import Foundation
import Glibc
import Synchronization
import Testing

@Suite("small disk")
struct SmallDiskTests {
    @Test("a full file system: commits fail, reads and deletions continue, and freed space anywhere on it is found")
    func fullDisk() throws {
        let disk = TemporaryDirectory()
        guard geteuid() == 0, mount("tmpfs", disk.path, "tmpfs", 0, "size=2m") == 0 else {
            try Test.cancel("A small disk can be mounted by root only.")
        }
        defer { umount2(disk.path, Int32(MNT_DETACH)) }
        let ballast = disk.path("ballast")
        try Data(count: 600_000).write(to: URL(fileURLWithPath: ballast))
        let environment = try Environment(
            directory: disk.path("store"), mapByteCountMax: 1 << 30, tablesMax: 2, durability: .everysec)
        var setup = try environment.beginSetup()
        let table = try setup.openTable("t")
        try setup.commit()
        let writer = try Writer(environment: environment, durability: .everysec, queueDepthMax: 64)
        defer {
            writer.close()
            environment.close()
        }
        let conditions = Conditions()
        writer.observeCondition { conditions.note($0) }
        func put(_ key: String) throws {
            let done = Outcome()
            writer.submit(
                WriteJob(
                    body: { try $0.put(table, Array(key.utf8), [UInt8](repeating: 7, count: 300_000)) },
                    completion: done.finish))
            try done.wait()
        }
        func value(_ key: String) throws -> Int? {
            let read = try environment.beginRead()
            return try read.get(table, Array(key.utf8)).map(\.count)
        }
        var count = 0
        while (try? put("k\(count)")) != nil { count += 1 }
        #expect(count > 0)
        guard case .refused(let code) = conditions.next().condition else {
            Issue.record("not refused")
            return
        }
        #expect([ENOSPC, EIO].contains(code))
        #expect(try value("k0") == 300_000 && value("k\(count)") == nil)
        // Space that another process frees is found without a commit.
        try FileManager.default.removeItem(atPath: ballast)
        #expect(conditions.next().condition == .writable)
        try put("k\(count)")
        // Full again; room that a deletion makes inside the file.
        while (try? put("k\(count + 1)")) != nil { count += 1 }
        guard case .refused = conditions.next().condition else {
            Issue.record("not refused")
            return
        }
        let done = Outcome()
        writer.submit(
            WriteJob(
                isFreeing: true,
                body: { transaction in
                    for index in 0..<3 { try transaction.delete(table, Array("k\(index)".utf8)) }
                }, completion: done.finish))
        try done.wait()
        #expect(conditions.next().condition == .writable)
        #expect(try FileManager.default.contentsOfDirectory(atPath: disk.path("store")).contains("dcp-probe") == false)
    }
}
