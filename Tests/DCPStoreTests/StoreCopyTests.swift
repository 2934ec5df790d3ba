// SPDX-License-Identifier: Apache-2.0

import DCPStore
import DCPTestKit
import Foundation
import Testing

@Suite("StoreCopy: one state of a store, while the store keeps writing", .timeLimit(.minutes(2)))
struct StoreCopyTests {
    private func environment(_ path: String) throws -> Environment {
        try Environment(directory: path, mapByteCountMax: 1 << 28, tablesMax: 2, durability: .never)
    }

    private func change(_ environment: Environment, _ body: (inout WriteTransaction, Table) throws -> Void) throws {
        var transaction = try environment.beginSetup()
        let table = try transaction.openTable("t")
        try body(&transaction, table)
        try transaction.commit()
    }

    private func contents(_ environment: Environment) throws -> [[UInt8]: [UInt8]] {
        var found: [[UInt8]: [UInt8]] = [:]
        let table = try environment.openTables(reading: ["t"])[0]
        try environment.beginRead().scan(table) { key, value in
            found[Array(key)] = Array(value)
            return true
        }
        return found
    }

    /// A whole copy as a file; `meanwhile` is called between two parts.
    private func write(_ copy: StoreCopy, to path: String, meanwhile: () throws -> Void) throws -> Int {
        var file = [UInt8](repeating: 0, count: copy.pages * copy.pageByteCount)
        var (next, used) = (0, 0)
        while next < copy.pages {
            let part = try copy.read(from: next)
            var start = 0
            for run in part.runs {
                let bytes = part.bytes[start..<start + run.count * copy.pageByteCount]
                file.replaceSubrange(
                    run.lowerBound * copy.pageByteCount..<run.upperBound * copy.pageByteCount, with: bytes)
                start += bytes.count
            }
            #expect(start == part.bytes.count && part.next > next)
            used += start
            next = part.next
            try meanwhile()
        }
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        try Data(file).write(to: URL(filePath: path + "/data.mdb"))
        return used
    }

    @Test("whatever is written, deleted and used again meanwhile, the copy is the state it began with, page by page")
    func frozen() throws {
        var random = SeededGenerator(seed: SeededGenerator.seed)
        let directory = TemporaryDirectory()
        let environment = try environment(directory.path("store"))
        defer { environment.close() }
        func value() -> [UInt8] {
            let count = [20, 900, 5000, 70_000].randomElement(using: &random)!
            let byte = UInt8.random(in: .min ... .max, using: &random)
            return [UInt8](repeating: byte, count: count)
        }
        func churn() throws {
            try change(environment) { transaction, table in
                for _ in 0..<40 {
                    let key = [
                        UInt8.random(in: .min ... .max, using: &random), UInt8.random(in: 0...3, using: &random),
                    ]
                    if Bool.random(using: &random) {
                        try transaction.put(table, key, value())
                    } else {
                        try transaction.delete(table, key)
                    }
                }
            }
        }
        for _ in 0..<30 { try churn() }
        for round in 0..<4 {
            let expected = try contents(environment)
            let copy = try StoreCopy(of: environment)
            #expect(copy.pages > 512, "several parts")
            let path = directory.path("copy-\(round)")
            let used = try write(copy, to: path) { for _ in 0..<3 { try churn() } }
            #expect(used < copy.pages * copy.pageByteCount, "what is free is left out")
            #expect(try contents(environment) != expected)
            // Every page that it reaches is checked when it is opened to be read.
            let reopened = try Environment(readingDirectory: path, tablesMax: 2)
            #expect(try contents(reopened) == expected, "seed \(SeededGenerator.seed)")
            reopened.close()
            // And it goes on as a store.
            let writable = try self.environment(path)
            try change(writable) { try $0.put($1, [1, 2, 3], [4]) }
            #expect(try contents(writable).count == expected.count + 1)
            writable.close()
        }
    }

    @Test("a store that was just made, and pages beyond the end")
    func small() throws {
        let directory = TemporaryDirectory()
        let environment = try environment(directory.path("store"))
        defer { environment.close() }
        try change(environment) { try $0.put($1, [1], [2]) }
        let copy = try StoreCopy(of: environment)
        let end = try copy.read(from: copy.pages + 7)
        #expect(end.runs.isEmpty && end.next == copy.pages)
        _ = try write(copy, to: directory.path("copy")) {}
        let reopened = try Environment(readingDirectory: directory.path("copy"), tablesMax: 2)
        #expect(try contents(reopened) == [[1]: [2]])
        reopened.close()
    }

    @Test("a store cannot be closed under a copy, and is let go with it")
    func lifetime() throws {
        let directory = TemporaryDirectory()
        let environment = try environment(directory.path("store"))
        try change(environment) { try $0.put($1, [1], [2]) }
        do {
            let copy = try StoreCopy(of: environment)
            environment.close()
            #expect(throws: StoreError.self) { try self.environment(directory.path("store")) }
            #expect(try copy.read(from: 0).next == copy.pages)
        }
        let again = try self.environment(directory.path("store"))
        again.close()
    }
}
