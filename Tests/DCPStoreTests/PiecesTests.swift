// SPDX-License-Identifier: Apache-2.0

import DCPStore
import DCPTestKit
import Testing

@Suite("values in pieces")
struct PiecesTests {
    private static let key: [UInt8] = [1, 2, 3]

    private func value(_ byteCount: Int) -> [UInt8] { (0..<byteCount).map { UInt8(truncatingIfNeeded: $0 &* 7) } }

    /// A writer in whose store no two free pages lie side by side.
    private func bench() throws -> Bench {
        let bench = try Bench()
        bench.environment.inject(StoreFaults(runPagesMax: { 1 }))
        return bench
    }

    private func run(
        _ bench: Bench, isOptional: Bool = false, _ body: @escaping @Sendable (inout WriteTransaction) throws -> Void
    ) throws {
        let done = Outcome()
        bench.writer.submit(WriteJob(isOptional: isOptional, body: body, completion: done.finish))
        try done.wait()
    }

    private func place(_ bench: Bench, _ value: [UInt8]) throws {
        try run(bench) { [table = bench.table] transaction in
            _ = try transaction.place(table, Self.key, byteCount: value.count) { place in
                value.withUnsafeBytes { place.copyMemory(from: $0) }
            }
        }
    }

    private func stored(_ bench: Bench) throws -> [UInt8]? {
        let read = try bench.environment.beginRead()
        return try read.withValue(bench.table, Self.key) { Array($0) }
    }

    private func entries(_ bench: Bench) throws -> Int {
        let read = try bench.environment.beginRead()
        return try read.count(bench.table)
    }

    @Test("a value that finds no run is there in pieces of a page, comes back as it was, and goes with all of them")
    func pieces() throws {
        let bench = try bench()
        let page = bench.environment.pieceByteCount
        for (byteCount, pieces) in [(100, 1), (page, 1), (page + 1, 2), (2 * page, 2), (5 * page - 1, 5)] {
            try place(bench, value(byteCount))
            #expect(try entries(bench) == pieces)
            #expect(try stored(bench) == value(byteCount))
            // Values behind it, whose keys begin alike, are others.
            try run(bench) { [table = bench.table] in try $0.put(table, Self.key + [0], [9]) }
            try run(bench) { [table = bench.table] in _ = try $0.remove(table, Self.key) }
            #expect(try stored(bench) == nil && entries(bench) == 1)
            try run(bench) { [table = bench.table] in try $0.delete(table, Self.key + [0]) }
        }
    }

    @Test("a value that lacks a piece is none")
    func missing() throws {
        let bench = try bench()
        for missing in 0..<2 as Range<UInt8> {
            try place(bench, value(3 * bench.environment.pieceByteCount))
            try run(bench) { [table = bench.table] in try $0.delete(table, Self.key + [0, 0, 0, missing]) }
            #expect(try stored(bench) == nil)
            try run(bench) { [table = bench.table] in _ = try $0.remove(table, Self.key) }
            #expect(try entries(bench) == 0)
        }
    }

    @Test("an optional job has its runs or fails, and the store stays what it was")
    func optional() throws {
        let bench = try bench()
        #expect(throws: StoreError.self) {
            try run(bench, isOptional: true) { [table = bench.table, value = value(9000)] in
                try $0.put(table, Self.key, value)
            }
        }
        #expect(bench.writer.health.condition == .writable)
        #expect(try entries(bench) == 0)
    }

    @Test("without runs, the pages that one transaction deletes fit a list of one page")
    func deletions() throws {
        let bench = try bench()
        let keys = (0..<300).map { [UInt8($0 / 100), UInt8($0 % 100)] }
        try run(bench) { [table = bench.table] transaction in
            for key in keys {
                _ = try transaction.place(table, key, byteCount: 8000) {
                    $0.initializeMemory(as: UInt8.self, repeating: 1)
                }
            }
        }
        let done = Outcome()
        bench.writer.submit(
            WriteJob(
                isFreeing: true,
                body: { [table = bench.table] transaction in
                    for key in keys where transaction.canFree(2) { try transaction.remove(table, key, pages: 2) }
                }, completion: done.finish))
        try done.wait()
        // LMDB's list of them takes 8 bytes each, and some are for the trees' own.
        #expect(try entries(bench) == 600 - 380)
    }
}
