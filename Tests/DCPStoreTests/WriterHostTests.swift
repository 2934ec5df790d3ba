// SPDX-License-Identifier: Apache-2.0

import DCPStore
import DCPTestKit
import Synchronization
import Testing

/// Keeps jobs until it is told to run them.
private final class HandCrank: WriterHost {
    private let waiting = Mutex<[@Sendable () -> Void]>([])
    let syncs = Mutex(0)

    func schedule(after delay: Duration, _ body: @escaping @Sendable () -> Void) {
        waiting.withLock { $0.append(body) }
    }

    func synced() { syncs.withLock { $0 += 1 } }

    func run() {
        while let body = waiting.withLock({ $0.isEmpty ? nil : $0.removeFirst() }) { body() }
    }
}

@Suite("writer with a host")
struct WriterHostTests {
    private func open(
        _ durability: Durability, _ body: (Environment, Table, Writer, HandCrank) throws -> Void
    ) throws {
        let directory = TemporaryDirectory()
        let environment = try Environment(
            directory: directory.path("store"), mapByteCountMax: 1 << 24, tablesMax: 2, durability: durability)
        defer { environment.close() }
        var setup = try environment.beginSetup()
        let table = try setup.openTable("t")
        try setup.commit()
        let host = HandCrank()
        let writer = try Writer(environment: environment, durability: durability, queueDepthMax: 8, host: host)
        defer { writer.close() }
        try body(environment, table, writer, host)
    }

    @Test(
        "a job that must survive a loss of power is synced before it completes, whatever the durability",
        arguments: Durability.allCases)
    func synced(durability: Durability) throws {
        try open(durability) { _, table, writer, host in
            let seen = Mutex<[Int]>([])
            for isSynced in [false, true] {
                writer.submit(
                    WriteJob(
                        isSynced: isSynced, body: { try $0.put(table, [isSynced ? 2 : 1], [0]) },
                        completion: { _ in
                            let syncs = host.syncs.withLock { $0 }
                            seen.withLock { $0.append(syncs) }
                        }))
                // One transaction each: a group would be synced together.
                if !isSynced, durability != .everysec { host.run() }
            }
            host.run()
            let syncs = seen.withLock { $0 }
            #expect(syncs.count == 2)
            #expect(syncs[1] >= 1)
            if durability == .never { #expect(syncs[0] == 0) }
        }
    }

    @Test("jobs run only when the host runs them, and not at all once the writer is abandoned")
    func abandoned() throws {
        try open(.never) { environment, table, writer, host in
            let outcomes = Outcomes()
            writer.submit(WriteJob(body: { try $0.put(table, [1], [1]) }, completion: outcomes.record("first")))
            host.run()
            #expect(outcomes.wait(1) == ["first"])
            let called = Mutex(false)
            writer.submit(
                WriteJob(body: { try $0.put(table, [2], [2]) }, completion: { _ in called.withLock { $0 = true } }))
            writer.abandon()
            host.run()
            #expect(!called.withLock { $0 })
            let read = try environment.beginRead()
            let first = try read.get(table, [1]) != nil
            let second = try read.get(table, [2]) != nil
            #expect(first && !second)
        }
    }
}
