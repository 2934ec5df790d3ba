// SPDX-License-Identifier: Apache-2.0

import DCPStore
import DCPTestKit
import Foundation
import Testing

/// The walk over LMDB's pages that comes before the map: it takes what LMDB wrote, and nothing that would end the process.
@Suite("pages")
struct PageCheckTests {
    /// Random puts and deletes, of values in leaves and in runs of pages, in two tables.
    private func grow(_ path: String, _ generator: inout SeededGenerator, operations: Int) throws {
        let environment = try Environment(
            directory: path, mapByteCountMax: 1 << 30, tablesMax: 2, durability: .never)
        defer { environment.close() }
        for _ in 0..<4 {
            var transaction = try environment.beginSetup()
            let tables = [try transaction.openTable("a"), try transaction.openTable("b")]
            for _ in 0..<operations {
                let table = tables[Int.random(in: 0..<2, using: &generator)]
                let number = Int.random(in: 0..<3000, using: &generator)
                let key = Array("key of entry number \(number * 7919 % 3000)".utf8)
                if Int.random(in: 0..<3, using: &generator) == 0 {
                    try transaction.delete(table, key)
                } else {
                    let limit = Int.random(in: 0..<8, using: &generator) == 0 ? 20_000 : 300
                    let count = Int.random(in: 0...limit, using: &generator)
                    try transaction.put(table, key, [UInt8](repeating: UInt8(number % 251), count: count))
                }
            }
            try transaction.commit()
        }
        try environment.markCreated()
    }

    /// Opens the store to read it and reads every byte of every table.
    private func readAll(_ path: String) throws -> Int {
        let environment = try Environment(readingDirectory: path, tablesMax: 2)
        defer { environment.close() }
        var sum = 0
        let tables = try environment.openTables(reading: ["a", "b"])
        let read = try environment.beginRead()
        for table in tables {
            try read.scan(table) { key, value in
                sum += key.reduce(0) { $0 + Int($1) } + value.reduce(0) { $0 + Int($1) }
                return true
            }
        }
        return sum
    }

    @Test("whatever LMDB has written is taken: splits, merges, large values, a long free list, emptied tables")
    func intact() throws {
        var generator = SeededGenerator.ofRun(salt: 70)
        let directory = TemporaryDirectory()
        let path = directory.path("store")
        for round in 0..<25 {
            try grow(path, &generator, operations: [1, 10, 300, 2000][round % 4])
            _ = try readAll(path)
        }
        // Everything deleted: trees without a page, and all pages on the free list.
        let environment = try Environment(
            directory: path, mapByteCountMax: 1 << 30, tablesMax: 2, durability: .never)
        var transaction = try environment.beginSetup()
        for name in ["a", "b"] {
            let table = try transaction.openTable(name)
            var keys: [[UInt8]] = []
            try transaction.scan(table) { key, _ in
                keys.append(Array(key))
                return true
            }
            for key in keys { try transaction.delete(table, key) }
        }
        try transaction.commit()
        environment.close()
        #expect(try readAll(path) == 0)
        try grow(path, &generator, operations: 500)
        #expect(try readAll(path) > 0)
    }

    @Test("a flipped bit in a page of a tree is refused, or changes what is read and nothing else")
    func flipped() throws {
        var generator = SeededGenerator.ofRun(salt: 71)
        let directory = TemporaryDirectory()
        let path = directory.path("store")
        for _ in 0..<4 { try grow(path, &generator, operations: 500) }
        let url = URL(fileURLWithPath: path + "/data.mdb")
        let good = try Data(contentsOf: url)
        let sum = try readAll(path)
        let pages = (0..<good.count / 4096).filter {
            [1, 2, 8].contains(good[$0 * 4096 + 10]) && good[$0 * 4096 + 11] == 0
        }
        var (refused, same, other) = (0, 0, 0)
        for _ in 0..<300 {
            let page =
                Bool.random(using: &generator)
                ? pages.randomElement(using: &generator)! : Int.random(in: 0..<2, using: &generator)
            // Headers and node offsets half of the time, where a bit does most harm.
            let limit = Bool.random(using: &generator) ? 160 : 4096
            let place = page * 4096 + Int.random(in: 0..<limit, using: &generator)
            let mask = UInt8(1) << UInt8.random(in: 0..<8, using: &generator)
            try write(good[place] ^ mask, at: place, of: url)
            do {
                if try readAll(path) == sum { same += 1 } else { other += 1 }
            } catch let error as StoreError {
                refused += 1
                #expect(
                    [.damaged, .refused].contains(error.code),
                    "byte \(place): \(error), DCP_SEED=\(SeededGenerator.seed)")
            }
            try write(good[place], at: place, of: url)
        }
        // All three happen, or the flips test nothing.
        let counts = "\(refused) refused, \(same) the same, \(other) other, DCP_SEED=\(SeededGenerator.seed)"
        #expect(refused >= 10 && same >= 3 && other >= 3, "\(counts)")
    }

    @Test("a meta page with a flipped bit in its transaction's number is refused, or is that of another state")
    func flippedTransaction() throws {
        var generator = SeededGenerator.ofRun(salt: 72)
        let directory = TemporaryDirectory()
        let path = directory.path("store")
        for _ in 0..<2 { try grow(path, &generator, operations: 50) }
        let url = URL(fileURLWithPath: path + "/data.mdb")
        let good = try Data(contentsOf: url)
        for page in 0..<2 {
            for bit in 0..<64 {
                // Behind the page's header and 128 bytes of its fields.
                let place = page * 4096 + 16 + 128 + bit / 8
                try write(good[place] ^ (1 << UInt8(bit % 8)), at: place, of: url)
                do {
                    _ = try readAll(path)
                    #expect(bit < 63, "no store reaches it")
                } catch let error as StoreError {
                    #expect(error.code == .damaged, "bit \(bit) of page \(page): \(error)")
                }
                try write(good[place], at: place, of: url)
            }
        }
    }

    /// The simulator's track record, 9.
    @Test("a file is whole that ends before pages which the transaction that took them gave back")
    func neverWritten() throws {
        let directory = TemporaryDirectory()
        let path = directory.path("store")
        var environment = try Environment(directory: path, mapByteCountMax: 1 << 24, tablesMax: 2, durability: .never)
        var shortCount = 0
        for round in 0..<3 {
            var transaction = try environment.beginSetup()
            let table = try transaction.openTable("a")
            _ = try transaction.openTable("b")
            try transaction.put(table, [UInt8(round)], [UInt8](repeating: 7, count: 10))
            try transaction.put(table, [100], [UInt8](repeating: 1, count: 50_000))
            try transaction.delete(table, [100])
            try transaction.commit()
            environment.close()
            let data = try Data(contentsOf: URL(fileURLWithPath: path + "/data.mdb"))
            // Byte 136 of the newer of both meta pages: the last page of the newest transaction.
            let lastPage = data.withUnsafeBytes { bytes in
                max(
                    bytes.loadUnaligned(fromByteOffset: 136, as: UInt64.self),
                    bytes.loadUnaligned(fromByteOffset: 4096 + 136, as: UInt64.self))
            }
            if Int(lastPage) >= data.count / 4096 { shortCount += 1 }
            #expect(try readAll(path) == (0...round).reduce(0) { $0 + $1 + 70 })
            environment = try Environment(directory: path, mapByteCountMax: 1 << 24, tablesMax: 2, durability: .never)
        }
        environment.close()
        #expect(shortCount > 0, "no file ended before its last page: this tests nothing")
    }

    private func write(_ byte: UInt8, at place: Int, of url: URL) throws {
        let file = try FileHandle(forUpdating: url)
        try file.seek(toOffset: UInt64(place))
        try file.write(contentsOf: [byte])
        try file.close()
    }

    @Test("a page used twice, on the free list and in use, or cut off is named")
    func shared() throws {
        var generator = SeededGenerator.ofRun(salt: 72)
        let directory = TemporaryDirectory()
        let path = directory.path("store")
        try grow(path, &generator, operations: 1500)
        let url = URL(fileURLWithPath: path + "/data.mdb")
        let good = try Data(contentsOf: url)
        func refusal() -> String {
            do {
                _ = try readAll(path)
                return "nothing"
            } catch { return "\(error)" }
        }
        // Branch pages, the freed ones too: the second child becomes the first one's twin.
        var messages: [String] = []
        for branch in 2..<good.count / 4096 where good[branch * 4096 + 10] == 1 && good[branch * 4096 + 12] > 20 {
            func node(_ index: Int) -> Int {
                let place = branch * 4096 + 16 + 2 * index
                return branch * 4096 + Int(good[place]) + Int(good[place + 1]) << 8
            }
            var bad = good
            for byte in 0..<6 { bad[node(1) + byte] = good[node(0) + byte] }
            try bad.write(to: url)
            messages.append(refusal())
        }
        #expect(messages.contains { $0.contains("is used twice") }, "\(messages)")
        #expect(messages.allSatisfy { $0 == "nothing" || $0.contains("is used twice") }, "\(messages)")
        try Data(good.prefix(good.count / 8192 * 4096)).write(to: url)
        // Which it is depends on the page that is met first: one that is not there, or one that points there.
        let half = refusal()
        #expect(half.contains("truncated") || half.contains("the file has"), "\(half)")
        try Data(good.prefix(100)).write(to: url)
        #expect(refusal().contains("not an LMDB file"))
        try good.write(to: url)
        #expect(refusal() == "nothing")
    }
}
