// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPWire
import Glibc
import Testing

extension Integration {
    /// What comes back by itself.
    @Suite("recovery")
    struct RecoveryTests {
        @Test("a client continues after a restart of the coordinator")
        func coordinator() async throws {
            let trace = Trace(try shape(4, 2, 16, 16, .bfloat16), tokens: 60, salt: 800)
            try await ClusterSetup(ranks: 2).run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s", model: "m")
                    var answer = Answer(try await client.step(trace, 0..<20, on: sequence))
                    try await client.commit(sequence, 20)
                    _ = try await cluster.local.stop(.coordinator, deadline: .seconds(30))
                    answer.append(try await client.step(trace, 20..<30, on: sequence))
                    try await client.commit(sequence, 30)
                    try cluster.local.start(.coordinator)
                    try await cluster.waitUntilReady()
                    // The same client, whose connection to the coordinator is gone.
                    try await client.registerModel("n", trace.shape)
                    #expect(try await client.models().map(\.name).sorted() == ["m", "n"])
                    #expect(try await client.openSequence("s", model: "m") == sequence)
                    let other = try await client.openSequence("t", model: "n")
                    // Nothing of it has failed that told of the new epoch: the claim does.
                    #expect(try await client.resume(sequence).length == 30)
                    answer.append(try await client.step(trace, 30..<60, on: sequence))
                    trace.check(answer, 0..<60, "with a coordinator that was stopped in between")
                    let second = Answer(try await client.step(trace, 0..<60, on: other))
                    trace.check(second, 0..<60, "a sequence opened afterwards")
                }
            }
        }

        @Test("TRAPS 14: a rank that lives and does not answer fails the health check; awake, the cluster heals itself")
        func stoppedRank() async throws {
            let trace = Trace(try shape(4, 2, 16, 16, .bfloat16), tokens: 60, salt: 801)
            try await ClusterSetup(ranks: 3).run { cluster in
                try await cluster.withClient { client in
                    _ = try await client.play(trace, Cuts([0, 30]), on: client.open(trace, "s"))
                }
                let sleeper = try #require(cluster.local.daemon(.rank(RankIndex(1))))
                sleeper.signal(SIGSTOP)
                do {
                    defer { sleeper.signal(SIGCONT) }
                    let outcome = try await cluster.tool.run("health", "--timeout", "2s")
                    #expect(outcome.status == 75, "\(outcome.messages)")
                    #expect(outcome.data.isEmpty)
                    #expect(
                        outcome.messages.contains("rank 1") || outcome.messages.contains("deadline"),
                        "\(outcome.messages)")
                }
                try await waitUntilHealthy(cluster)
                #expect(try await cluster.tool.run("health", "--timeout", "30s").status == 0)
                try await cluster.withClient { client in
                    let sequence = try await client.openSequence("s", model: nil)
                    #expect(try await client.resume(sequence).layerLengths == [30])
                    let answer = Answer(try await client.step(trace, 30..<60, on: sequence))
                    trace.check(answer, 30..<60, "after rank 1 slept")
                }
            }
        }

        /// The membership may change once more under the first steps after a rank woke up.
        private func waitUntilHealthy(_ cluster: TestCluster) async throws {
            for attempt in 1...10 {
                do {
                    _ = try await cluster.withClient { try await $0.health() }
                    return
                } catch let error as ServiceError where error.isRetryable && attempt < 10 {
                    print("not healthy yet: \(error)")
                }
            }
        }

        @Test("TRAPS 13: steps that fail on one rank give every rank's places and tokens back")
        func failedSteps() async throws {
            // 256 tokens take half of the megabyte that a rank may hold uncommitted.
            let trace = Trace(try shape(16, 8, 64, 64, .float16), tokens: 500, salt: 802)
            var bad = trace
            // The last token's last value is too large for the cache; the owner of the token finds it.
            bad.layers[0].values[bad.layers[0].values.count - 1] = 1e6
            try await ClusterSetup(ranks: 2, rankArguments: ["--uncommitted-limit", "1"]).run { [bad] cluster in
                try await cluster.withClient { client in
                    await client.sendUnchecked()
                    let sequence = try await client.open(trace, "s")
                    // More than the places for steps, of which there are 1,024, and many times the bytes.
                    for (range, count) in [(499..<500, 1100), (100..<500, 20)] {
                        let rows = bad.rows(0, range)
                        for _ in 0..<count {
                            do throws(ServiceError) {
                                _ = try await client.step(
                                    layer: 0, [sequence.entry(position: 0, count: range.count)], model: sequence.model,
                                    queries: rows.queries, keys: rows.keys, values: rows.values)
                                Issue.record("the step should fail")
                            } catch {
                                #expect(error.code == .invalidRequest, "\(error)")
                            }
                            #expect(try await client.resume(sequence).layerLengths == [0])
                        }
                    }
                    for status in try await client.rankStatuses() {
                        #expect(status.stepsAborted >= 1120, "each failed on both ranks: \(status)")
                        #expect(status.stepsInFlight == 0 && status.uncommittedByteCount == 0, "\(status)")
                    }
                    let answer = Answer(try await client.step(trace, 0..<500, on: sequence))
                    trace.check(answer.suffix(20, of: trace.shape), 480..<500, "after failed steps")
                    try await client.commit(sequence, 500)
                }
            }
        }
    }
}
