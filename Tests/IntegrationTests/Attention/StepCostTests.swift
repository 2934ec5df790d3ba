// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPHost
import DCPWire
import Foundation
import Testing

extension Integration {
    /// What a decode step costs beside its attention, counted and not timed: a machine's load changes neither.
    @Suite("cost of a step")
    struct StepCostTests {
        /// What the kernel has counted of a process since it began.
        private struct Counts {
            /// How often a thread gave its processor up to wait.
            var sleeps = 0
            /// Calls that read or write, of sockets and of what wakes an event loop.
            var transfers = 0

            init(of process: UInt32) throws {
                let tasks = "/proc/\(process)/task"
                for task in try FileManager.default.contentsOfDirectory(atPath: tasks) {
                    let status = ProcessCounts(path: "\(tasks)/\(task)/status")
                    sleeps += try #require(status?["voluntary_ctxt_switches"])
                }
                let io = ProcessCounts(path: "/proc/\(process)/io")
                for name in ["syscr", "syscw"] { transfers += try #require(io?[name], "no \(name)") }
            }
        }

        @Test(
            "a rank of two sleeps at most 3 times in a decode step, and reads and writes at most 5 times",
            arguments: [64, 4096])
        func decode(context: Int) async throws {
            let steps = 300
            let trace = Trace(try shape(32, 8, 128, 128, .bfloat16), tokens: context + steps + 20, salt: 77)
            try await ClusterSetup(ranks: 2, blockTokens: 64).run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "decode", model: "m")
                    let rows = trace.rows(0, 0..<context)
                    try await client.append(
                        layer: 0, [sequence.entry(position: 0, count: context)], model: sequence.model,
                        keys: rows.keys, values: rows.values)
                    try await client.commit(sequence, context)
                    func decode(_ range: Range<Int>) async throws {
                        for position in range {
                            _ = try await client.step(trace, position..<position + 1, on: sequence, mode: nil)
                        }
                    }
                    // The first of them is computed by a thread: its pages may be on the disk.
                    try await decode(context..<context + 20)
                    let processes = try await client.rankStatuses().map(\.processID)
                    let before = try processes.map { try Counts(of: $0) }
                    try await decode(context + 20..<context + 20 + steps)
                    let after = try processes.map { try Counts(of: $0) }
                    for (rank, (after, before)) in zip(after, before).enumerated() {
                        let sleeps = Double(after.sleeps - before.sleeps) / Double(steps)
                        let transfers = Double(after.transfers - before.transfers) / Double(steps)
                        #expect(sleeps <= 3, "rank \(rank) slept \(sleeps) times a step")
                        // The request, a partial in and out, the reply; heartbeats and what arrives in two pieces.
                        #expect(transfers <= 5, "rank \(rank) read and wrote \(transfers) times a step")
                        #expect(transfers >= 3, "rank \(rank) read and wrote \(transfers) times a step: is it counted?")
                    }
                }
            }
        }

        @Test("a task on a client's executor stays on the thread that sends and receives, and is answered as elsewhere")
        func executor() async throws {
            let trace = Trace(try shape(8, 2, 64, 64, .bfloat16), tokens: 60, salt: 78)
            try await ClusterSetup(ranks: 2).run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "on-its-thread", model: "m")
                    try await withTaskExecutorPreference(client.executor) {
                        let thread = Self.thread()
                        var answers: [Answer] = [Answer()]
                        for position in 0..<60 {
                            answers[0].append(try await client.step(trace, position..<position + 1, on: sequence))
                            #expect(Self.thread() == thread, "position \(position)")
                        }
                        trace.check(answers, "on the client's thread")
                    }
                }
            }
        }

        /// Asynchronous functions may not call it themselves.
        private static func thread() -> pthread_t { pthread_self() }

        @Test("64 clients decode at once: each is answered as if alone, and the ranks answer others meanwhile")
        func crowd() async throws {
            let shape = try shape(8, 2, 64, 64, .bfloat16)
            let traces = (0..<64).map { Trace(shape, tokens: 300, salt: 4000 + UInt64($0)) }
            try await ClusterSetup(ranks: 2, blockTokens: 64).run { cluster in
                try await cluster.withClients(64) { clients in
                    try await withThrowingTaskGroup(of: Void.self) { group in
                        for (index, client) in clients.enumerated() {
                            group.addTask {
                                let sequence = try await client.open(traces[index], "crowd-\(index)", model: "m")
                                let cuts = Cuts(counts: [280] + [Int](repeating: 1, count: 20))
                                let answers = try await client.play(traces[index], cuts, on: sequence, mode: nil)
                                traces[index].check(answers, "client \(index)")
                            }
                        }
                        group.addTask {
                            let client = clients[0]
                            for _ in 0..<20 {
                                let statuses = try await client.rankStatuses()
                                #expect(statuses.count == 2)
                            }
                        }
                        try await group.waitForAll()
                    }
                }
            }
        }
    }
}
