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

    @Test("no byte left: deletions make do with the pages that are free inside the file, and free the rest later")
    func noByteLeft() throws {
        guard let disk = SmallDisk(byteCount: 64 << 20) else {
            try Test.cancel("A small disk can be mounted by root only.")
        }
        let environment = try Environment(
            directory: disk.path("store"), mapByteCountMax: 1 << 30, tablesMax: 4, durability: .never)
        var setup = try environment.beginSetup()
        let counters = try setup.openTable("counters")
        let records = try setup.openTable("records")
        let rows = try setup.openTable("rows")
        let blocks = try setup.openTable("blocks")
        try setup.commit()
        @Sendable func key(_ numbers: Int...) -> [UInt8] {
            numbers.flatMap { number in withUnsafeBytes(of: UInt32(number).bigEndian) { Array($0) } }
        }
        let writer = try Writer(
            environment: environment, durability: .never, queueDepthMax: 64,
            turningOver: { try $0.put(counters, key(0), [0]) })
        defer {
            writer.close()
            environment.close()
            withExtendedLifetime(disk) {}
        }
        func run(isFreeing: Bool = false, _ body: @escaping @Sendable (inout WriteTransaction) throws -> Void) throws {
            let done = Outcome()
            writer.submit(WriteJob(isFreeing: isFreeing, body: body, completion: done.finish))
            try done.wait()
        }
        // As decoding does it: a row, and its sequence's record again. Each commit takes what the one but last freed.
        let sequences = 20
        let layers = 4
        for sequence in 0..<sequences {
            try run { transaction in
                try transaction.put(counters, key(0), [0])
                for layer in 0..<layers {
                    for block in 0..<16 {
                        let value = [UInt8](repeating: 1, count: 10_000)
                        try transaction.put(blocks, key(layer, sequence, block), value)
                    }
                }
            }
        }
        for row in 0..<3 {
            for sequence in 0..<sequences {
                try run { transaction in
                    try transaction.put(records, key(sequence), [UInt8](repeating: 2, count: 220))
                    try transaction.put(rows, key(sequence, row), [UInt8](repeating: 3, count: 3000))
                }
            }
        }
        try disk.fill()
        for sequence in 0..<sequences {
            let rest = Mutex<[(Table, [UInt8], pages: Int)]>([])
            try run(isFreeing: true) { transaction in
                var left = (0..<3).map { (rows, key(sequence, $0), pages: 1) }
                left += (0..<layers * 16).map { (blocks, key($0 / 16, sequence, $0 % 16), pages: 3) }
                try transaction.put(counters, key(1), key(sequence))
                try transaction.delete(records, key(sequence))
                try delete(&left, &transaction)
                rest.withLock { $0 = left }
            }
            while rest.withLock({ !$0.isEmpty }) {
                // A transaction that fails is run again, from the same.
                let due = rest.withLock { $0 }
                try run(isFreeing: true) { transaction in
                    var left = due
                    try delete(&left, &transaction)
                    rest.withLock { $0 = left }
                }
            }
        }
        let read = try environment.beginRead()
        for table in [records, rows, blocks] {
            let count = try read.count(table)
            #expect(count == 0, "\(table.name)")
        }
    }

    /// Deletes as many as a transaction may.
    private func delete(
        _ values: inout [(Table, [UInt8], pages: Int)], _ transaction: inout WriteTransaction
    ) throws {
        while let value = values.last, transaction.canFree(value.pages) {
            try transaction.delete(value.0, value.1, pages: value.pages)
            values.removeLast()
        }
    }
}
