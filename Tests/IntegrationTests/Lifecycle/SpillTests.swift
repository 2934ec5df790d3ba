// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPWire
import Foundation
import Testing

extension Integration {
    /// More uncommitted tokens than RAM may hold.
    @Suite("spilling")
    struct SpillTests {
        private static let layers = 32
        private static let tokens = 768

        /// 256 bytes a token and layer: 6 MiB, or 3 on each of two ranks, of which 1 may be in RAM.
        private static func trace(_ salt: UInt64) throws -> Trace {
            Trace(try shape(layers: layers, 4, 2, 32, 32, .bfloat16), tokens: tokens, salt: salt)
        }

        private static func setup(_ arguments: [String] = ["--uncommitted-limit", "1"]) -> ClusterSetup {
            var setup = ClusterSetup(ranks: 2, interleave: 4)
            setup.rankArguments = arguments + ["--claim-timeout", "1"]
            return setup
        }

        /// One pass: each layer with all tokens, in two steps, before the next one.
        private func pass(_ trace: Trace, on sequence: SequenceHandle, _ client: Cluster) async throws -> [Answer] {
            var answers: [Answer] = []
            for layer in 0..<Self.layers {
                var answer = Answer()
                for range in [0..<500, 500..<Self.tokens] {
                    answer.append(try await client.step(trace, range, layer: layer, on: sequence))
                }
                answers.append(answer)
            }
            return answers
        }

        private func samples(_ metric: String, in cluster: TestCluster) async throws -> [Double] {
            var found: [Double] = []
            for rank in 0..<2 {
                let answer = try await cluster.get("/metrics", of: .rank(RankIndex(UInt16(rank))))
                found.append(try #require(answer.sample("\(metric){rank=\"\(rank)\"}")))
            }
            return found
        }

        private func waitForNothing(of metric: String, rank: Int, in cluster: TestCluster) async throws {
            _ = try await cluster.get("/metrics", of: .rank(RankIndex(UInt16(rank)))) {
                $0.sample("\(metric){rank=\"\(rank)\"}") == 0
            }
        }

        private func verifiesClean(_ client: Cluster) async throws {
            for rank in try await client.verify() { #expect(rank.findings.isEmpty, "\(rank.findings)") }
        }

        @Test("one pass through 32 layers, of several times what RAM may hold, has the bits of one without a limit")
        func pass() async throws {
            let trace = try Self.trace(1200)
            let undisturbed = try await Self.setup([]).run { cluster in
                try await cluster.withClient { client in
                    let answers = try await pass(trace, on: client.open(trace, "s"), client)
                    #expect(try await samples("dcp_spilled_blocks_total", in: cluster) == [0, 0])
                    return answers
                }
            }
            for layer in [0, Self.layers - 1] {
                trace.check(
                    undisturbed[layer].suffix(8, of: trace.shape, layer: layer), layer: layer,
                    Self.tokens - 8..<Self.tokens, "undisturbed")
            }
            try await Self.setup().run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s")
                    #expect(try await pass(trace, on: sequence, client) == undisturbed)
                    for bytes in try await samples("dcp_spilled_bytes", in: cluster) { #expect(bytes > 2_000_000) }
                    for bytes in try await samples("dcp_uncommitted_bytes", in: cluster) { #expect(bytes <= 1_048_576) }
                    try await verifiesClean(client)
                    try await client.commit(sequence, Self.tokens)
                    #expect(try await samples("dcp_spilled_bytes", in: cluster) == [0, 0])
                    #expect(try await client.status(of: sequence).committedLength == Self.tokens)
                    try await verifiesClean(client)
                }
                for rank in 0..<2 { try await cluster.local.killRank(rank) }
                for rank in 0..<2 { try cluster.local.startRank(rank) }
                try await cluster.waitUntilReady()
                try await cluster.withClient { client in
                    // What is read now was spilled, and then committed.
                    let sequence = try await client.openSequence("s", model: nil)
                    try await client.cut("s", to: 500)
                    try await client.resume(sequence)
                    for layer in [0, 7, Self.layers - 1] {
                        let answer = Answer(
                            try await client.step(trace, 500..<Self.tokens, layer: layer, on: sequence))
                        #expect(answer == undisturbed[layer].suffix(Self.tokens - 500, of: trace.shape, layer: layer))
                    }
                }
            }
        }

        @Test(
            "a kill before the commit leaves nothing in the store; one in the middle of spilling neither",
            arguments: [true, false])
        func killed(inTheMiddle: Bool) async throws {
            let trace = try Self.trace(1201)
            try await Self.setup().run { cluster in
                if inTheMiddle {
                    try await cluster.local.killRank(0)
                    try cluster.local.start(.rank(RankIndex(0)), environment: ["DCP_FAIL_POINT": "spill-after:2"])
                    try await cluster.waitUntilReady()
                }
                let committed = try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s", model: "m")
                    let other = try await client.open(trace, "other", model: "m")
                    _ = try await client.play(trace, Cuts([0, 100]), on: other)
                    _ = try await client.play(trace, Cuts([0, 40]), on: sequence)
                    let committed = try await samples("dcp_sealed_blocks", in: cluster)
                    func prefill() async throws(ServiceError) {
                        for layer in 0..<Self.layers {
                            _ = try await client.step(trace, 40..<Self.tokens, layer: layer, on: sequence)
                        }
                    }
                    if inTheMiddle {
                        let error = await #expect(throws: ServiceError.self) { try await prefill() }
                        #expect(
                            error?.isRetryable == true && error?.code != .deadlineExceeded,
                            "\(String(describing: error))")
                    } else {
                        try await prefill()
                    }
                    return committed
                }
                try await cluster.local.killRank(0)
                try cluster.local.startRank(0)
                try await cluster.waitUntilReady()
                try await cluster.withClient { client in
                    let sequence = try await client.openSequence("s", model: nil)
                    #expect(try await client.resume(sequence).length == 40)
                    // Rank 0 deletes what it finds at its start, rank 1 what was rewound.
                    for rank in 0..<2 {
                        try await waitForNothing(of: "dcp_spilled_bytes", rank: rank, in: cluster)
                        _ = try await cluster.get("/metrics", of: .rank(RankIndex(UInt16(rank)))) {
                            $0.sample("dcp_sealed_blocks{rank=\"\(rank)\"}") == committed[rank]
                        }
                    }
                    try await verifiesClean(client)
                    let answers = try await client.play(trace, Cuts([40, Self.tokens]), on: sequence)
                    for layer in [0, Self.layers - 1] {
                        trace.check(
                            answers[layer].suffix(4, of: trace.shape, layer: layer), layer: layer,
                            Self.tokens - 4..<Self.tokens, "after the kill")
                    }
                    try await verifiesClean(client)
                }
            }
        }

        @Test("tokens spilled by a client that has gone are deleted after claim-timeout")
        func gone() async throws {
            let trace = try Self.trace(1202)
            try await Self.setup().run { cluster in
                let sequence = try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s")
                    _ = try await client.play(trace, Cuts([0, 20]), on: sequence)
                    for layer in 0..<Self.layers {
                        _ = try await client.step(trace, 20..<Self.tokens, layer: layer, on: sequence)
                    }
                    for bytes in try await samples("dcp_spilled_bytes", in: cluster) { #expect(bytes > 2_000_000) }
                    return sequence
                }
                for rank in 0..<2 {
                    try await waitForNothing(of: "dcp_spilled_bytes", rank: rank, in: cluster)
                    try await waitForNothing(of: "dcp_sealed_blocks", rank: rank, in: cluster)
                }
                try await cluster.withClient { client in
                    #expect(try await client.status(of: sequence).layerLengths.allSatisfy { $0 == 20 })
                    try await verifiesClean(client)
                }
            }
        }
    }
}
