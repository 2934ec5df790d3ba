// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPWire
import Foundation
import Testing

extension Integration {
    /// SIGKILL at the worst moments.
    @Suite("crashes")
    struct CrashTests {
        private static func trace(_ salt: UInt64, tokens: Int = 160) throws -> Trace {
            Trace(try shape(layers: 2, 6, 2, 32, 16, .bfloat16), tokens: tokens, salt: salt)
        }

        @Test("a killed rank fails the next submit with 75 and its name; started again, the submit works")
        func killedRank() async throws {
            let trace = try Self.trace(200)
            try await ClusterSetup(ranks: 4).run { cluster in
                let files = ["first", "second"].map { cluster.directory.path("\($0).safetensors") }
                try trace.write(0..<100, layer: nil, to: files[0], metadata: ["model": "m"])
                try trace.write(100..<160, layer: nil, to: files[1], metadata: ["model": "m"])
                let first = try await cluster.tool.run("submit", files[0], "--sequence", "s", "--kv-format", "bf16")
                #expect(first.status == 0, "\(first.messages)")

                try await cluster.local.killRank(2)
                let submit = ["submit", files[1], "--sequence", "s", "--output", cluster.directory.path("o")]
                try await cluster.tool.fails(75, saying: ["rank 2"], submit + ["--timeout", "10s"])
                try await cluster.tool.fails(75, saying: ["rank 2"], ["health", "--timeout", "10s"])
                #expect(!FileManager.default.fileExists(atPath: cluster.directory.path("o")))
                let status = try await cluster.tool.run("status", "--json").object()
                #expect(status["phase"] as? String == "incomplete")

                try cluster.local.startRank(2)
                try await cluster.waitUntilReady()
                let again = try await cluster.tool.run(submit)
                #expect(again.status == 0, "\(again.messages)")
                for layer in 0..<2 {
                    let answer = try Answer(file: cluster.directory.path("o"), prefix: "layers.\(layer).")
                    trace.check(answer, layer: layer, 100..<160, "after the restart")
                }
                #expect(try await cluster.tool.run("health").status == 0)
            }
        }

        @Test("a rank killed under a client: a retryable error that names it", arguments: [0, 1, 2])
        func killedUnderClient(rank: Int) async throws {
            let trace = try Self.trace(201)
            try await ClusterSetup(ranks: 3, interleave: 4).run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s", model: "m")
                    _ = try await client.play(trace, Cuts([0, 70]), on: sequence)
                    _ = try await client.play(trace, Cuts([70, 90]), on: sequence, commit: .never)
                    try await cluster.local.killRank(rank)
                    let error = await #expect(throws: ServiceError.self) {
                        try await client.step(trace, 90..<100, on: sequence)
                    }
                    #expect(error?.isRetryable == true && error?.code != .deadlineExceeded)
                    #expect(error.map { "\($0)".contains("rank \(rank)") } == true, "\(String(describing: error))")
                    try cluster.local.startRank(rank)
                    try await cluster.waitUntilReady()
                    // What only the others had is given up: everybody goes on from what all have.
                    let progress = try await client.resume(sequence)
                    #expect(progress.committedLength == 70 && progress.layerLengths == [70, 70])
                    let answers = try await client.play(trace, Cuts([70, 100, 160]), on: sequence)
                    for (layer, answer) in answers.enumerated() {
                        trace.check(answer, layer: layer, 70..<160, "after rank \(rank) came back")
                    }
                }
            }
        }

        /// What is under way when SIGKILL is sent.
        enum Moment: CaseIterable {
            case firstLayer
            case lastLayer
            case commit
        }

        @Test(
            "a rank killed in mid-prefill: the sequence continues from the committed tokens", arguments: Moment.allCases
        )
        func killedInPrefill(moment: Moment) async throws {
            let trace = try Self.trace(202, tokens: 400)
            try await ClusterSetup(ranks: 3).run { cluster in
                for rank in 0..<3 {
                    let sequence = try await cluster.withClient { client in
                        try await client.open(trace, "killed-\(rank)", model: "m")
                    }
                    let victim = try #require(cluster.local.daemon(.rank(RankIndex(UInt16(rank)))))
                    let error = try await cluster.withClient { client in
                        await #expect(throws: ServiceError.self) {
                            try await prefill(trace, sequence, client) { position, now in
                                if position == 20 + 2 * rank, now == moment { victim.signal(SIGKILL) }
                            }
                        }
                    }
                    // The clients' own deadline is not what ends the wait for a rank that is gone.
                    #expect(
                        error?.isRetryable == true && error?.code != .deadlineExceeded, "\(String(describing: error))")
                    try await cluster.local.killRank(rank)
                    try cluster.local.startRank(rank)
                    try await cluster.waitUntilReady()
                    try await cluster.withClient { client in
                        let progress = try await client.resume(sequence)
                        let (committed, lengths) = (progress.committedLength, progress.layerLengths)
                        #expect(committed >= 20 + 2 * rank && committed % 2 == 0)
                        #expect(lengths.allSatisfy { $0 >= committed })
                        for layer in 0..<2 where lengths[layer] < 400 {
                            let answer = Answer(
                                try await client.step(trace, lengths[layer]..<400, layer: layer, on: sequence))
                            trace.check(
                                answer.suffix(4, of: trace.shape), layer: layer, 396..<400,
                                "rank \(rank) killed, continued from \(lengths)")
                        }
                        try await client.commit(sequence, 400)
                    }
                }
            }
        }

        /// Steps and commits as fast as they can follow each other. `during` is called while each is under way.
        private func prefill(
            _ trace: Trace, _ sequence: SequenceHandle, _ client: Cluster,
            during: @Sendable (_ position: Int, _ what: Moment) -> Void
        ) async throws {
            for position in stride(from: 0, to: trace.tokens, by: 2) {
                for (layer, moment) in [Moment.firstLayer, .lastLayer].enumerated() {
                    async let step = client.step(trace, position..<position + 2, layer: layer, on: sequence)
                    during(position, moment)
                    _ = try await step
                }
                async let commit: Void = client.commit(sequence, position + 2)
                during(position, .commit)
                try await commit
            }
        }

        @Test("without the coordinator ranks serve who is connected; it comes back and the cluster is ready")
        func coordinator() async throws {
            let trace = try Self.trace(203)
            try await ClusterSetup(ranks: 3).run { cluster in
                let answers = try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s", model: "m")
                    var answers = try await client.play(trace, Cuts([0, 60]), on: sequence)
                    try await cluster.local.kill(.coordinator)
                    let alone = try await client.play(trace, Cuts([60, 90, 100]), on: sequence)
                    for (layer, answer) in alone.enumerated() { answers[layer].append(answer) }
                    return answers
                }
                try await cluster.tool.fails(69, saying: [cluster.local.coordinatorEndpoint], ["status"])
                try cluster.local.start(.coordinator)
                try await cluster.waitUntilReady()
                try await cluster.withClient { client in
                    let sequence = try await client.openSequence("s", model: nil)
                    #expect(try await client.status(of: sequence).committedLength == 100)
                    let rest = try await client.play(trace, Cuts([100, 160]), on: sequence)
                    trace.check(
                        zip(answers, rest).map { first, second in
                            var answer = first
                            answer.append(second)
                            return answer
                        }, "a coordinator that was killed in between")
                }
            }
        }

        @Test("every daemon killed at once: all that was committed is there", arguments: [1, 4])
        func killedAll(interleave: Int) async throws {
            let trace = try Self.trace(204)
            try await ClusterSetup(ranks: 3, interleave: interleave).run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s", model: "m")
                    _ = try await client.play(trace, Cuts([0, 50, 51, 90]), on: sequence, commit: .everyStep)
                    try await client.fork("s", as: "fork", length: 51)
                }
                for role in cluster.local.roles { try await cluster.local.kill(role) }
                for role in cluster.local.roles { try cluster.local.start(role) }
                try await cluster.waitUntilReady()
                try await cluster.withClient { client in
                    for (name, length) in [("s", 90), ("fork", 51)] {
                        let sequence = try await client.openSequence(name, model: nil)
                        #expect(try await client.status(of: sequence).layerLengths == [length, length])
                        let answers = try await client.play(trace, Cuts([length, 160]), on: sequence)
                        for (layer, answer) in answers.enumerated() {
                            trace.check(answer, layer: layer, length..<160, name)
                        }
                    }
                }
            }
        }
    }
}
