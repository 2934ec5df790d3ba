// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPTestKit
import DCPWire
import Testing

extension Integration {
    /// Models whose layers differ in everything: windows about the edges of runs and blocks, sinks, latent values, heads,
    /// dimensions.
    @Suite("kinds of layers")
    struct KindTests {
        static let setups = [
            ClusterSetup(ranks: 1, interleave: 16, blockTokens: 16),
            ClusterSetup(ranks: 2, interleave: 64, blockTokens: 64),
            ClusterSetup(ranks: 3, interleave: 4, blockTokens: 16),
            ClusterSetup(ranks: 4, interleave: 1, blockTokens: 32),
            ClusterSetup(ranks: 4, headGroups: 2, interleave: 16, blockTokens: 16),
            ClusterSetup(ranks: 8, interleave: 2, blockTokens: 16),
        ]

        /// A layer for each window.
        static func shape(_ setup: ClusterSetup, _ type: CacheFormat) throws -> ModelDescription {
            let (run, block) = (setup.interleave, setup.blockTokens)
            let windows = [1, 2, max(run - 1, 1), run, run + 1, block - 1, block, block + 1, 5 * block, 1_000_000]
            let shapes: [(heads: Int, kvHeads: Int, keyDim: Int, values: LayerAttention.Values)] = [
                (6, 2, 16, .own(24)), (4, 1, 40, .leading(32)), (9, 3, 32, .own(16)), (2, 2, 10, .own(8)),
                (8, 2, 24, .leading(24)),
            ]
            var random = SeededGenerator.ofRun(salt: UInt64(setup.ranks * 100 + block))
            let layers = try windows.enumerated().map { layer, window in
                let shape = shapes[layer % shapes.count]
                return try LayerAttention(
                    queryHeads: shape.heads * setup.headGroups, kvHeads: shape.kvHeads * setup.headGroups,
                    keyDim: shape.keyDim, values: shape.values,
                    scale: LayerAttention.defaultScale(keyDim: shape.keyDim),
                    softcap: layer % 3 == 0 ? 5 : nil, visibility: .window(window), hasSinks: layer % 2 == 1)
            }
            return try ModelDescription(
                layers: layers, kvFormat: type,
                sinks: layers.map { random.floats($0.hasSinks ? $0.queryHeads : 0, limit: 4) })
        }

        @Test(
            "TRAPS 41, 49: every window equals float64 attention, and all forms of a step each other bit for bit",
            arguments: setups)
        func windows(setup: ClusterSetup) async throws {
            var gathering = setup
            gathering.exchange = .allGatherReduceScatter
            let cuts = GridTests.cuts(setup, heads: 6)
            try await setup.run { allToAll in
                try await gathering.run { allGather in
                    try await allToAll.withClient { a in
                        try await allGather.withClient { b in
                            for type in [CacheFormat.bfloat16, .float32] {
                                let trace = Trace(try Self.shape(setup, type), tokens: cuts.end, salt: 51)
                                func play(
                                    _ cluster: Cluster, _ mode: StepRequest.QueryMode, _ rule: CommitRule
                                ) async throws -> [Answer] {
                                    let name = Fresh.name("kinds-\(type.name)")
                                    let sequence = try await cluster.open(trace, name, model: type.name)
                                    return try await cluster.play(trace, cuts, on: sequence, mode: mode, commit: rule)
                                }
                                let what = "\(setup.testDescription), \(type.name)"
                                let first = try await play(a, .gather, .everyStep)
                                trace.check(first, what)
                                #expect(try await play(a, .replicate, .atEnd) == first, "\(what): replicated queries")
                                #expect(try await play(b, .gather, .never) == first, "\(what): ag-rs")
                            }
                        }
                    }
                }
            }
        }

        @Test("steps behind each other in every layer, all sent before the first answer, equal float64 attention")
        func pipelined() async throws {
            try await ClusterSetup(ranks: 3, interleave: 4).run { cluster in
                let trace = Trace(try mixedShape(), tokens: 120, salt: 52)
                let sequence = try await cluster.withClient { try await $0.open(trace, "s") }
                for layer in 0..<trace.shape.layers {
                    let answer = try await Pipeline(cluster).send(trace, layer: layer, stepTokens: 3, on: sequence)
                    trace.check(answer, layer: layer, 0..<120, "pipelined")
                }
            }
        }
    }
}
