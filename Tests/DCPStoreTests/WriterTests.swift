// SPDX-License-Identifier: Apache-2.0

import DCPStore
import DCPTestKit
import Foundation
import Synchronization
import Testing

/// An environment with one table and its writer.
final class Bench {
    let directory: TemporaryDirectory
    let environment: Environment
    let table: Table
    let writer: Writer

    init(
        durability: Durability = .never, queueDepthMax: Int = 64, mapByteCountMax: Int = 1 << 26,
        groupByteCountMax: Int = Writer.groupByteCountMax
    ) throws {
        directory = TemporaryDirectory()
        environment = try Environment(
            directory: directory.path("store"), mapByteCountMax: mapByteCountMax, tablesMax: 2, durability: durability)
        var setup = try environment.beginSetup()
        table = try setup.openTable("t")
        try setup.commit()
        writer = try Writer(
            environment: environment, durability: durability, queueDepthMax: queueDepthMax,
            groupByteCountMax: groupByteCountMax)
    }

    func value(_ key: String) throws -> [UInt8]? {
        let read = try environment.beginRead()
        return try read.get(table, Array(key.utf8)).map { Array($0) }
    }

    /// Keeps the writer in a completion until the returned gate is opened.
    func hold() -> Gate {
        let gate = Gate()
        let entered = DispatchSemaphore(value: 0)
        let job = WriteJob(body: { _ in }) { _ in
            entered.signal()
            gate.semaphore.wait()
        }
        writer.submit(job)
        entered.wait()
        return gate
    }

    deinit {
        writer.close()
        environment.close()
    }
}

final class Gate: Sendable {
    let semaphore = DispatchSemaphore(value: 0)
    func open() { semaphore.signal() }
}

/// The outcomes of jobs, by name, in the order they came.
final class Outcomes: Sendable {
    private let all = Mutex<[(name: String, error: String?)]>([])
    private let arrived = DispatchSemaphore(value: 0)

    func record(_ name: String) -> @Sendable (Result<Void, any Error>) -> Void {
        { result in
            var text: String?
            if case .failure(let error) = result { text = "\(error)" }
            let entry = (name, text)
            self.all.withLock { $0.append(entry) }
            self.arrived.signal()
        }
    }

    func wait(_ count: Int) -> [String] {
        for _ in 0..<count { arrived.wait() }
        return all.withLock { $0.map { $0.error == nil ? $0.name : "\($0.name) failed" } }
    }
}

struct Refused: Error {}

@Suite("writer")
struct WriterTests {
    private func put(_ bench: Bench, _ key: String, _ outcomes: Outcomes, fails: Bool = false) {
        let table = bench.table
        bench.writer.submit(
            WriteJob(
                body: { transaction in
                    try transaction.put(table, Array(key.utf8), [1, 2, 3])
                    if fails { throw Refused() }
                }, completion: outcomes.record(key)))
    }

    /// The simulator's track record, 10.
    @Test("a store that is closed leaves no descriptor open, with a thread and with a host", arguments: [true, false])
    func descriptors(hasHost: Bool) throws {
        final class Host: WriterHost {
            func schedule(after delay: Duration, _ body: @escaping @Sendable () -> Void) {}
            func synced() {}
        }
        let directory = TemporaryDirectory()
        // Those of this store only: other tests run in this process.
        func open() throws -> [String] {
            try FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd").compactMap {
                try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/fd/\($0)")
            }.filter { $0.hasPrefix(directory.path("")) }
        }
        let environment = try Environment(
            directory: directory.path("store"), mapByteCountMax: 1 << 24, tablesMax: 2, durability: .always)
        let writer = try Writer(
            environment: environment, durability: .always, queueDepthMax: 8, host: hasHost ? Host() : nil)
        #expect(try !open().isEmpty)
        if hasHost { writer.abandon() } else { writer.close() }
        environment.close()
        let left = try withExtendedLifetime(writer) { try open() }
        #expect(left.isEmpty, "\(left)")
    }

    @Test("group commit: jobs that wait together share one transaction")
    func group() throws {
        let bench = try Bench()
        let outcomes = Outcomes()
        let gate = bench.hold()
        for index in 0..<20 { put(bench, "k\(index)", outcomes) }
        gate.open()
        #expect(outcomes.wait(20) == (0..<20).map { "k\($0)" })
        #expect(bench.writer.transactionsCommitted == 1)
        for index in 0..<20 { #expect(try bench.value("k\(index)") == [1, 2, 3]) }
    }

    @Test("group commit is bounded: a transaction takes no further job when it has enough to write, and any one")
    func groupBound() throws {
        let bench = try Bench(groupByteCountMax: 1 << 20)
        let outcomes = Outcomes()
        let table = bench.table
        func put(_ key: String, byteCount: Int) {
            bench.writer.submit(
                WriteJob(
                    body: { try $0.put(table, Array(key.utf8), [UInt8](repeating: 1, count: byteCount)) },
                    completion: outcomes.record(key)))
        }
        let gate = bench.hold()
        // Three are enough, the next goes with the large one, and the others are the rest.
        for key in ["a", "b", "c", "d"] { put(key, byteCount: 400_000) }
        put("large", byteCount: 4 << 20)
        for key in ["x", "y"] { put(key, byteCount: 400_000) }
        gate.open()
        #expect(outcomes.wait(7) == ["a", "b", "c", "d", "large", "x", "y"])
        #expect(bench.writer.transactionsCommitted == 3)
        for key in ["a", "d", "large", "y"] { #expect(try bench.value(key) != nil) }
    }

    @Test("a job that fails after it wrote does not fail the others, and is undone each time")
    func poison() throws {
        let bench = try Bench()
        let outcomes = Outcomes()
        let table = bench.table
        let gate = bench.hold()
        put(bench, "a", outcomes)
        let counter = Counter()
        bench.writer.submit(
            WriteJob(
                body: { transaction in
                    try transaction.put(table, Array("bad".utf8), [9])
                    throw Refused()
                }, undo: { counter.raise() }, completion: outcomes.record("bad")))
        put(bench, "b", outcomes)
        gate.open()
        #expect(outcomes.wait(3).sorted() == ["a", "b", "bad failed"])
        #expect(counter.value == 2)
        #expect(try bench.value("a") != nil && bench.value("b") != nil)
        #expect(try bench.value("bad") == nil)
        #expect(bench.writer.transactionsCommitted == 2)
    }

    @Test("a job that is refused before it wrote leaves the shared transaction as it is")
    func refusal() throws {
        let bench = try Bench()
        let outcomes = Outcomes()
        let gate = bench.hold()
        put(bench, "a", outcomes)
        bench.writer.submit(WriteJob(body: { _ in throw Refused() }, completion: outcomes.record("bad")))
        put(bench, "b", outcomes)
        gate.open()
        #expect(outcomes.wait(3) == ["a", "bad failed", "b"])
        #expect(bench.writer.transactionsCommitted == 1)
    }

    @Test("jobs that touch the same thing, or want to be alone, get transactions of their own, in order")
    func keys() throws {
        let bench = try Bench()
        let outcomes = Outcomes()
        let table = bench.table
        let gate = bench.hold()
        let key = WriteJob.Key(space: 1, value: 5)
        for index in 0..<3 {
            bench.writer.submit(
                WriteJob(
                    keys: [key], body: { try $0.put(table, [UInt8(index)], [1]) },
                    completion: outcomes.record("\(index)")))
        }
        bench.writer.submit(
            WriteJob(isAlone: true, body: { try $0.put(table, [9], [1]) }, completion: outcomes.record("alone")))
        put(bench, "z", outcomes)
        gate.open()
        #expect(outcomes.wait(5) == ["0", "1", "2", "alone", "z"])
        #expect(bench.writer.transactionsCommitted == 5)
    }

    @Test("jobs that read the same thing share a transaction, and none with one that changes it")
    func readKeys() throws {
        let bench = try Bench()
        let outcomes = Outcomes()
        let table = bench.table
        let gate = bench.hold()
        let key = WriteJob.Key(space: 1, value: 5)
        for (index, isReading) in [true, true, false, true, true].enumerated() {
            bench.writer.submit(
                WriteJob(
                    keys: isReading ? [] : [key], reading: isReading ? [key] : [],
                    body: { try $0.put(table, [UInt8(index)], [1]) }, completion: outcomes.record("\(index)")))
        }
        gate.open()
        #expect(outcomes.wait(5) == ["0", "1", "2", "3", "4"])
        #expect(bench.writer.transactionsCommitted == 3)
    }

    @Test("a full queue refuses at once; closing runs what waits")
    func bounds() throws {
        let bench = try Bench(queueDepthMax: 3)
        let outcomes = Outcomes()
        let gate = bench.hold()
        for index in 0..<4 { put(bench, "k\(index)", outcomes) }
        #expect(outcomes.wait(1) == ["k3 failed"])
        gate.open()
        bench.writer.close()
        #expect(outcomes.wait(3) == ["k3 failed", "k0", "k1", "k2"])
        put(bench, "late", outcomes)
        #expect(outcomes.wait(1).last == "late failed")
    }

    @Test("the store's own jobs take no room in the queue from others")
    func internalJobs() throws {
        let bench = try Bench(queueDepthMax: 1)
        let outcomes = Outcomes()
        let gate = bench.hold()
        for index in 0..<3 {
            bench.writer.submitInternal(WriteJob(body: { _ in }, completion: outcomes.record("own \(index)")))
        }
        put(bench, "a", outcomes)
        put(bench, "b", outcomes)
        #expect(outcomes.wait(1) == ["b failed"])
        gate.open()
        #expect(outcomes.wait(4) == ["b failed", "own 0", "own 1", "own 2", "a"])
    }

    @Test("everysec and always: what was acknowledged is there after reopening", arguments: Durability.allCases)
    func durability(_ durability: Durability) throws {
        let directory: TemporaryDirectory
        do {
            let bench = try Bench(durability: durability)
            directory = bench.directory
            let outcomes = Outcomes()
            put(bench, "a", outcomes)
            #expect(outcomes.wait(1) == ["a"])
        }
        let environment = try Environment(
            directory: directory.path("store"), mapByteCountMax: 1 << 26, tablesMax: 2, durability: durability)
        var setup = try environment.beginSetup()
        let table = try setup.openTable("t")
        #expect(try setup.get(table, Array("a".utf8)).map { Array($0) } == [1, 2, 3])
        try setup.commit()
        environment.close()
    }

    @Test("a full store refuses new data and accepts deletions, which make room")
    func full() throws {
        let bench = try Bench(mapByteCountMax: 1 << 21)
        let table = bench.table
        var written = 0
        while written < 1000 {
            let outcomes = Outcomes()
            let key = [UInt8(written >> 8), UInt8(written & 255)]
            bench.writer.submit(
                WriteJob(
                    body: { try $0.put(table, key, [UInt8](repeating: 7, count: 10_000)) },
                    completion: outcomes.record("put")))
            guard outcomes.wait(1) == ["put"] else { break }
            written += 1
        }
        #expect((50..<300).contains(written))
        #expect(try bench.environment.usage().usedByteCount <= 1 << 21)
        // Deletion, twice because pages freed by one transaction are free for the next.
        for range in [0..<10, 10..<20] {
            let outcomes = Outcomes()
            bench.writer.submit(
                WriteJob(
                    isFreeing: true,
                    body: { transaction in
                        for index in range { try transaction.delete(table, [UInt8(index >> 8), UInt8(index & 255)]) }
                    }, completion: outcomes.record("delete")))
            #expect(outcomes.wait(1) == ["delete"])
        }
        let outcomes = Outcomes()
        bench.writer.submit(
            WriteJob(
                body: { try $0.put(table, [9, 9], [UInt8](repeating: 7, count: 10_000)) },
                completion: outcomes.record("put")))
        #expect(outcomes.wait(1) == ["put"])
    }
}

final class Counter: Sendable {
    private let count = Mutex(0)
    func raise() { count.withLock { $0 += 1 } }
    var value: Int { count.withLock { $0 } }
}
