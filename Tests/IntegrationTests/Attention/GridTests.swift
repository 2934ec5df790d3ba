// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPTestKit
import DCPWire
import Testing

extension Integration {
    /// Cluster shapes times models times everything a step can be, against float64; all forms of the exchange and of the
    /// queries give the same bits.
    @Suite("grid")
    struct GridTests {
        static let setups = [
            ClusterSetup(ranks: 1, interleave: 1, blockTokens: 16),
            ClusterSetup(ranks: 1, interleave: 64, blockTokens: 64),
            ClusterSetup(ranks: 2, interleave: 4, blockTokens: 16),
            ClusterSetup(ranks: 2, interleave: 1, blockTokens: 64),
            ClusterSetup(ranks: 3, interleave: 16, blockTokens: 16),
            ClusterSetup(ranks: 3, interleave: 1, blockTokens: 16),
            ClusterSetup(ranks: 4, interleave: 1, blockTokens: 64),
            ClusterSetup(ranks: 4, interleave: 64, blockTokens: 64),
            ClusterSetup(ranks: 4, headGroups: 2, interleave: 4, blockTokens: 16),
            ClusterSetup(ranks: 8, interleave: 1, blockTokens: 16),
            ClusterSetup(ranks: 8, interleave: 16, blockTokens: 64),
            ClusterSetup(ranks: 8, headGroups: 2, interleave: 64, blockTokens: 64),
        ]

        /// 9 query heads on every number of ranks, MHA, MQA, GQA with a soft cap and Dk != Dv; each cache format.
        static func models(_ groups: Int) throws -> [(name: String, shape: ModelDescription)] {
            [
                ("9 heads bf16", try shape(9 * groups, 3 * groups, 64, 64, .bfloat16)),
                ("MHA f32", try shape(4, 4, 16, 24, .float32)),
                ("MQA f16", try shape(6 * groups, groups, 32, 16, .float16)),
                ("capped f32", try shape(8, 2, 24, 40, .float32, softcap: 3)),
                ("MQA int8", try shape(6 * groups, groups, 32, 16, .int8)),
                ("capped fp8", try shape(8, 2, 24, 40, .fp8, softcap: 3)),
            ]
        }

        /// TRAPS 4, 32, 40: contexts shorter than the number of ranks and around every edge of a block; counts 1, 2, 7,
        /// 96; then as many tokens as there are heads, which must not hide a transpose (TRAPS 47).
        static func cuts(_ setup: ClusterSetup, heads: Int) -> Cuts {
            let (ranks, block) = (setup.contextRanks, setup.blockTokens)
            let edges = Cuts(
                [0, 1, max(1, ranks - 1), ranks, ranks + 1, block - 1, block, block + 1]
                    + [ranks * block - 1, ranks * block, ranks * block + 1])
            let rest = Cuts(from: edges.end, counts: [1, 2, 7, 96, 1, heads, 2, 1])
            return Cuts(edges.positions + rest.positions)
        }

        @Test("every form of a step equals float64 attention, and each other bit for bit", arguments: setups)
        func forms(setup: ClusterSetup) async throws {
            var gathering = setup
            gathering.exchange = .allGatherReduceScatter
            try await setup.run { allToAll in
                try await gathering.run { allGather in
                    try await allToAll.withClient { a in
                        try await allGather.withClient { b in
                            for (name, shape) in try Self.models(setup.headGroups) {
                                try await compare(setup, name, shape, a, b)
                            }
                        }
                    }
                }
            }
        }

        private func compare(
            _ setup: ClusterSetup, _ name: String, _ shape: ModelDescription, _ a: Cluster, _ b: Cluster
        ) async throws {
            let cuts = Self.cuts(setup, heads: shape.queryHeads)
            let trace = Trace(shape, tokens: cuts.end, salt: UInt64(setup.ranks * 100 + setup.interleave))
            let what = "\(setup.testDescription), \(name)"
            let model = Fresh.name("model")
            func play(_ cluster: Cluster, _ mode: StepRequest.QueryMode, _ rule: CommitRule) async throws -> [Answer] {
                let sequence = try await cluster.open(trace, Fresh.name("s"), model: model)
                return try await cluster.play(trace, cuts, on: sequence, mode: mode, commit: rule)
            }
            let first = try await play(a, .gather, .everyStep)
            trace.check(first, what)
            #expect(try await play(a, .gather, .atEnd) == first, "\(what): a second run, from RAM")
            #expect(try await play(a, .replicate, .everyStep) == first, "\(what): replicated queries")
            #expect(try await play(b, .gather, .everyStep) == first, "\(what): ag-rs")
            #expect(try await play(b, .replicate, .never) == first, "\(what): ag-rs, replicated queries")
        }

        @Test("TRAPS 35: speculative steps of 1 to 8 tokens at every alignment", arguments: setups)
        func speculative(setup: ClusterSetup) async throws {
            var random = SeededGenerator.ofRun(salt: UInt64(setup.ranks * 7 + setup.interleave))
            let counts = (1...8).map { $0 } + (0..<40).map { _ in Int.random(in: 1...8, using: &random) }
            let cuts = Cuts(counts: counts)
            let trace = Trace(
                try shape(5 * setup.headGroups, setup.headGroups, 16, 16, .bfloat16), tokens: cuts.end, salt: 35)
            try await setup.run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "speculative")
                    trace.check(
                        try await client.play(trace, cuts, on: sequence),
                        "\(setup.testDescription), counts \(counts)")
                }
            }
        }
    }
}
