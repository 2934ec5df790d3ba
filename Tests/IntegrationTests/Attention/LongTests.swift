// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPTestKit
import DCPTransfer
import DCPWire
import Foundation
import Testing

extension Integration {
    @Suite("long sequences")
    struct LongTests {
        @Test("TRAPS 1, 3: 3072 cached tokens and 64 new ones answer as one prefill of 3136 does")
        func cachedPrefix() async throws {
            let trace = Trace(try shape(4, 2, 32, 32, .bfloat16), tokens: 3136, salt: 3)
            try await ClusterSetup(ranks: 4, blockTokens: 64).run { cluster in
                let cached = try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "cached", model: "m")
                    return try await client.play(trace, Cuts([0, 3072]), on: sequence)
                }
                #expect(cached[0].lse.count == 3072 * 4)
                // Another client finds the prefix, also through a fork of it.
                try await cluster.withClient { client in
                    try await client.fork("cached", as: "forked", length: 3072)
                    let cold = try await client.play(
                        trace, Cuts([0, 3136]), on: client.open(trace, "cold", model: "m"))
                    let tail = 3072..<3136
                    trace.check(cold[0].suffix(64, of: trace.shape), tail, "cold prefill")
                    for name in ["cached", "forked"] {
                        let sequence = try await client.openSequence(name, model: nil)
                        let answer = try await client.play(trace, Cuts([3072, 3136]), on: sequence)
                        trace.check(answer[0], tail, name)
                    }
                }
            }
        }

        @Test("TRAPS 37: a prefix of one token, extended by 3670, on four ranks")
        func shortPrefix() async throws {
            let trace = Trace(try shape(2, 1, 16, 16, .float32), tokens: 3671, salt: 37)
            try await ClusterSetup(ranks: 4, blockTokens: 64).run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "short-prefix")
                    let answers = try await client.play(trace, Cuts([0, 1, 3671]), on: sequence)
                    trace.check(answers[0].suffix(40, of: trace.shape), 3631..<3671, "the last tokens")
                    let first = Answer(
                        outputs: Array(answers[0].outputs.prefix(8 * 2 * 16)), lse: Array(answers[0].lse.prefix(8 * 2)))
                    trace.check(first, 0..<8, "the first tokens")
                }
            }
        }

        @Test(
            "TRAPS 31: a long generation never loads one rank by more than the interleave", arguments: [1, 4, 16])
        func balance(interleave: Int) async throws {
            let trace = Trace(try shape(3, 1, 8, 8, .bfloat16), tokens: 330, salt: 31)
            try await ClusterSetup(ranks: 3, interleave: interleave).run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "generation")
                    var answer = Answer(try await client.step(trace, 0..<30, on: sequence))
                    for position in 30..<330 {
                        answer.append(try await client.step(trace, position..<position + 1, on: sequence))
                        guard position % 3 == 0 else { continue }
                        try await client.commit(sequence, position + 1)
                        let tokens = try await client.status(of: sequence).localTokens.values
                        let (most, least) = (try #require(tokens.max()), try #require(tokens.min()))
                        #expect(most - least <= interleave && tokens.reduce(0, +) == position + 1)
                    }
                    trace.check(answer, 0..<330, "interleave \(interleave)")
                }
            }
        }

        @Test("SmolLM2, prefill and decode, is within 2e-5 of float64", arguments: [(4, 1), (3, 1), (3, 3)])
        func smolLM2(ranks: Int, groups: Int) async throws {
            var options = SubmitOptions()
            options.chunk = 96
            options.expect = repositoryFile("Tests/Fixtures/smollm2-trace-expected.safetensors")
            let submission = try Submission(
                repositoryFile("Tests/Fixtures/smollm2-trace.safetensors"), options: options, output: nil)
            try await ClusterSetup(ranks: ranks, headGroups: groups, blockTokens: 64).run { cluster in
                try await cluster.withClient { client in
                    let report = try await submission.run(on: client) { _ in }
                    #expect(try #require(report.outputErrorMax) < 2e-5)
                    #expect(try #require(report.lseErrorMax) < 2e-5)
                    #expect(report.committedLength == 320 && report.decodeSteps.count == 89 * 3)
                }
            }
        }
    }
}
