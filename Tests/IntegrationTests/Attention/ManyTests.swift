// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPTestKit
import DCPWire
import Testing

extension Integration {
    @Suite("many at once")
    struct ManyTests {
        static let setups = [
            ClusterSetup(ranks: 3),
            ClusterSetup(ranks: 4, headGroups: 2, interleave: 4, exchange: .allGatherReduceScatter),
        ]

        @Test("TRAPS 6: steps of several sequences, some with no context, answer each as if alone", arguments: setups)
        func entries(setup: ClusterSetup) async throws {
            let shape = try shape(6, 2, 16, 24, .bfloat16)
            // Lengths before the shared steps: none at all, fewer than ranks, an edge, and more.
            let prefixes = [0, 1, 16, 100]
            let steps = [[1, 1, 1, 1], [5, 2, 1, 40], [1, 7, 33, 1]]
            let traces = prefixes.enumerated().map { index, prefix in
                Trace(shape, tokens: prefix + steps.reduce(0) { $0 + $1[index] }, salt: UInt64(600 + index))
            }
            try await setup.run { cluster in
                try await cluster.withClient { client in
                    var sequences: [SequenceHandle] = []
                    var answers = traces.map { _ in Answer() }
                    for (index, trace) in traces.enumerated() {
                        sequences.append(try await client.open(trace, "entry-\(index)", model: "m"))
                        let cuts = Cuts([0, prefixes[index]])
                        answers[index] = try await client.play(trace, cuts, on: sequences[index], commit: .never)[0]
                    }
                    var lengths = prefixes
                    for counts in steps {
                        let ranges = zip(lengths, counts).map { $0..<$0 + $1 }
                        let parts = try await client.joinedStep(traces, ranges, on: sequences)
                        for (index, part) in parts.enumerated() { answers[index].append(part) }
                        lengths = ranges.map(\.upperBound)
                        try await client.commit(
                            zip(sequences, lengths).map { SequenceLength(sequence: $0.record.id, length: $1) })
                    }
                    for (index, trace) in traces.enumerated() {
                        trace.check([answers[index]], "\(setup.testDescription), sequence \(index)")
                    }
                }
            }
        }

        @Test("two models, six sequences and three clients at once: each answers as if alone")
        func concurrency() async throws {
            let shapes = [try shape(9, 3, 32, 32, .bfloat16), try shape(4, 4, 16, 8, .float32, softcap: 5)]
            try await ClusterSetup(ranks: 4, interleave: 4, threads: 2).run { cluster in
                try await cluster.withClient { a in
                    try await cluster.withClient { b in
                        try await cluster.withClient { c in
                            try await withThrowingTaskGroup(of: Void.self) { group in
                                for (index, client) in [a, b, c, a, b, c].enumerated() {
                                    let trace = Trace(shapes[index % 2], tokens: 150, salt: UInt64(70 + index))
                                    group.addTask {
                                        let sequence = try await client.open(
                                            trace, "of-\(index)", model: "m-\(index % 2)")
                                        let cuts = Cuts(counts: [60, 30] + [Int](repeating: 2, count: 30))
                                        let answers = try await client.play(
                                            trace, cuts, on: sequence, commit: .everyStep)
                                        trace.check(answers, "client \(index)")
                                    }
                                }
                                try await group.waitForAll()
                            }
                        }
                    }
                }
            }
        }

        @Test("steps of one layer sent without waiting for the ones before answer in order")
        func pipelined() async throws {
            let trace = Trace(try shape(4, 2, 16, 16, .bfloat16, softcap: nil), tokens: 64, salt: 8)
            try await ClusterSetup(ranks: 2).run { cluster in
                let alone = try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "waiting", model: "m")
                    return try await client.play(trace, Cuts(counts: [Int](repeating: 2, count: 32)), on: sequence)
                }
                trace.check(alone, "one after the other")
                let sequence = try await cluster.withClient { try await $0.openSequence("pipelined", model: "m") }
                let answers = try await Pipeline(cluster).send(trace, stepTokens: 2, on: sequence)
                #expect(answers == alone[0])
            }
        }
    }
}

extension Cluster {
    /// One step over tokens of several traces of one model, cut apart again.
    fileprivate func joinedStep(
        _ traces: [Trace], _ ranges: [Range<Int>], on sequences: [SequenceHandle]
    ) async throws -> [Answer] {
        let shape = traces[0].shape
        func joined(_ heads: Int, _ dim: Int, _ rows: (Trace.Layer) -> [Float]) -> TokenRows {
            let values = zip(traces, ranges).flatMap { trace, range in
                rows(trace.layers[0])[range.lowerBound * heads * dim..<range.upperBound * heads * dim]
            }
            return TokenRows(values, tokens: values.count / heads / dim, heads: heads, dim: dim)
        }
        let output = try await step(
            layer: 0, zip(sequences, ranges).map { $0.entry(position: $1.lowerBound, count: $1.count) },
            model: sequences[0].model, queries: joined(shape.queryHeads, shape.keyDim, \.queries),
            keys: joined(shape.kvHeads, shape.keyDim, \.keys), values: joined(shape.kvHeads, shape.valueDim, \.values))
        var start = 0
        return ranges.map { range in
            defer { start += range.count }
            let row = shape.queryHeads * shape.valueDim
            return Answer(
                outputs: Array(output.outputs[start * row..<(start + range.count) * row]),
                lse: Array(output.lse[start * shape.queryHeads..<(start + range.count) * shape.queryHeads]))
        }
    }
}
