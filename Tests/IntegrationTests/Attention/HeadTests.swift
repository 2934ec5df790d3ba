// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCore
import DCPTestKit
import DCPWire
import Testing

extension Integration {
    @Suite("heads and dtypes")
    struct HeadTests {
        @Test("TRAPS 27, 28: every ratio of query to KV heads, uneven and empty slices included")
        func headGrid() async throws {
            try await ClusterSetup(ranks: 3, interleave: 4).run { cluster in
                try await cluster.withClient { client in
                    for kvHeads in [1, 2, 3, 4, 8] {
                        for ratio in [1, 2, 3, 4, 7] {
                            let trace = Trace(
                                try shape(kvHeads * ratio, kvHeads, 16, 8, .float32), tokens: 61,
                                salt: UInt64(kvHeads * 10 + ratio))
                            let sequence = try await client.open(trace, "heads-\(kvHeads)-\(ratio)")
                            let answers = try await client.play(
                                trace, Cuts(counts: [1, 1, 33, 7, 17, 2]), on: sequence)
                            trace.check(answers, "\(kvHeads) KV heads, \(ratio) query heads each")
                        }
                    }
                }
            }
        }

        @Test("TRAPS 26: rows of every dtype into caches of every format", arguments: CacheFormat.allCases)
        func dtypes(format: CacheFormat) async throws {
            try await ClusterSetup(ranks: 2).run { cluster in
                try await cluster.withClient { client in
                    for wireType in DataType.allCases {
                        var trace = Trace(try shape(6, 2, 32, 16, format), tokens: 120, salt: 26)
                        trace.wireType = wireType
                        let name = "rows-\(wireType.name)"
                        let sequence = try await client.open(trace, name)
                        let answers = try await client.play(
                            trace, Cuts(counts: [40, 70, 1, 1, 7, 1]), on: sequence, commit: .everyStep)
                        trace.check(answers, "\(wireType.name) rows, \(format.name) cache")
                    }
                }
            }
        }

        @Test("canary: an answer with two heads swapped, or one step late, is noticed")
        func canary() async throws {
            let trace = Trace(try shape(4, 2, 16, 8, .float32), tokens: 4, salt: 47)
            let right = trace.reference(0, 0..<4)
            let outputs = right.outputs.map { Float($0) }
            let lse = right.lse.map { Float($0) }
            trace.check(Answer(outputs: outputs, lse: lse), 0..<4, "the reference itself")
            // As many tokens as heads: a transpose has the right size.
            let transposed = Answer(
                outputs: RowOrder.headMajor(outputs, tokens: 4, heads: 4, dim: 8),
                lse: RowOrder.headMajor(lse, tokens: 4, heads: 4, dim: 1))
            let late = Answer(outputs: Array(outputs.dropFirst(32)) + outputs.prefix(32), lse: lse)
            for wrong in [transposed, late, Answer(outputs: outputs, lse: lse.map { $0 * 1.442695 })] {
                let errors = wrong.errors(right)
                #expect(errors.output > 10 * Answer.outputErrorMax || errors.lse > 10 * Answer.lseErrorMax)
            }
        }

        @Test("TRAPS 46: head dimensions that are no power of two")
        func dimensions() async throws {
            try await ClusterSetup(ranks: 2).run { cluster in
                try await cluster.withClient { client in
                    for (keyDim, valueDim) in [(8, 256), (80, 96), (112, 10), (192, 128), (256, 8), (14, 22)] {
                        let bytes = keyDim % 4 == 0 && valueDim % 4 == 0 ? [CacheFormat.int8, .fp8] : []
                        for type in [CacheFormat.bfloat16, .float32] + bytes {
                            let trace = Trace(try shape(4, 2, keyDim, valueDim, type), tokens: 60, salt: 46)
                            let sequence = try await client.open(trace, "dims-\(keyDim)-\(valueDim)-\(type.name)")
                            let answers = try await client.play(trace, Cuts(counts: [20, 38, 1, 1]), on: sequence)
                            trace.check(answers, "Dk \(keyDim), Dv \(valueDim), \(type.name)")
                        }
                    }
                }
            }
        }

        @Test("one rank answers with the bits of the plain kernel", arguments: CacheFormat.allCases)
        func plainKernel(type: CacheFormat) async throws {
            let setup = ClusterSetup(ranks: 1, blockTokens: 64)
            let cuts = Cuts(counts: [1, 63, 1, 200, 2, 7, 96, 1, 1])
            let trace = Trace(try shape(9, 3, 64, 64, type), tokens: cuts.end, salt: 1)
            let answers = try await setup.run { cluster in
                try await cluster.withClient { client in
                    try await client.play(trace, cuts, on: client.open(trace, "plain"), commit: .everyStep)
                }
            }
            var plain = Answer()
            for range in cuts.ranges {
                let states = try PlainKernel(trace, blockTokens: setup.blockTokens).attend(range)
                plain.append(states)
            }
            #expect(answers == [plain])
        }

        @Test("one compute thread and two answer with the same bits")
        func threads() async throws {
            let cuts = Cuts(counts: [600, 1500, 1, 1, 7, 1])
            let trace = Trace(try shape(8, 2, 32, 32, .bfloat16), tokens: cuts.end, salt: 2)
            var answers: [[Answer]] = []
            for threads in [1, 2] {
                answers.append(
                    try await ClusterSetup(ranks: 2, blockTokens: 64, threads: threads).run { cluster in
                        try await cluster.withClient { client in
                            try await client.play(trace, cuts, on: client.open(trace, "threads"))
                        }
                    })
            }
            #expect(answers[0] == answers[1])
            trace.check(answers[0][0].suffix(10, of: trace.shape), cuts.end - 10..<cuts.end, "2 ranks")
        }
    }
}
