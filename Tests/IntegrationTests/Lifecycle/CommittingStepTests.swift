// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPWire
import Testing

extension Integration {
    /// Commits that ride on a step: one round trip for both.
    @Suite("steps that commit")
    struct CommittingStepTests {
        private func commit(_ sequence: SequenceHandle, _ length: Int, _ ids: TokenIDs? = nil) -> [SequenceCommit] {
            [SequenceCommit(sequence: sequence.record.id, length: length, tokens: ids)]
        }

        @Test("answers are those of steps without; what was answered is there after every rank was killed, and its ids")
        func survives() async throws {
            let trace = Trace(try shape(layers: 2, 4, 2, 16, 16, .bfloat16), tokens: 60, salt: 31)
            let setup = ClusterSetup(ranks: 3, rankArguments: ["--durability", "always"])
            try await setup.run { cluster in
                try await cluster.withClient { client in
                    let plain = try await client.open(trace, "plain", model: "m")
                    let cuts = Cuts(counts: [40] + [Int](repeating: 1, count: 20))
                    let expected = try await client.play(trace, cuts, on: plain, commit: .everyStep)
                    let sequence = try await client.openSequence("riding", model: "m")
                    var answers = [Answer](repeating: Answer(), count: 2)
                    for range in cuts.ranges {
                        for layer in 0..<2 {
                            let rows = trace.rows(layer, range)
                            let ids = TokenIDs(start: range.lowerBound, ids: range.map { UInt32($0) })
                            answers[layer].append(
                                try await client.step(
                                    layer: layer, [sequence.entry(position: range.lowerBound, count: range.count)],
                                    model: sequence.model, queries: rows.queries, keys: rows.keys, values: rows.values,
                                    commits: layer == 1 ? commit(sequence, range.upperBound, ids) : []))
                        }
                        #expect(try await client.status(of: sequence).committedLength == range.upperBound)
                    }
                    #expect(answers == expected)
                }
                for rank in 0..<3 { try await cluster.local.kill(.rank(RankIndex(UInt16(rank)))) }
                _ = try cluster.local.startMissing()
                try await cluster.waitUntilReady()
                try await cluster.withClient { client in
                    let sequence = try await client.openSequence("riding", model: nil)
                    let progress = try await client.status(of: sequence)
                    #expect(progress.committedLength == 60 && progress.tokenIDs == 60)
                }
            }
        }

        @Test("a commit that a layer has not reached is refused; the step's tokens stay, and it may be asked for again")
        func refused() async throws {
            let trace = Trace(try shape(layers: 2, 4, 2, 16, 16, .bfloat16), tokens: 8, salt: 32)
            try await ClusterSetup(ranks: 2).run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "short", model: "m")
                    let rows = trace.rows(0, 0..<8)
                    let error = await #expect(throws: ServiceError.self) {
                        try await client.step(
                            layer: 0, [sequence.entry(position: 0, count: 8)], model: sequence.model,
                            queries: rows.queries, keys: rows.keys, values: rows.values,
                            commits: commit(sequence, 8))
                    }
                    #expect(error?.code == .positionMismatch && error?.message.contains("Layer 1") == true)
                    // The refusal of one rank ends the client's wait, and the other may be at work still: both have ended the
                    // step before they answer the next one.
                    _ = try await client.step(trace, 0..<8, layer: 1, on: sequence)
                    #expect(try await client.status(of: sequence).layerLengths == [8, 8])
                    try await client.commit(sequence, 8)
                    #expect(try await client.status(of: sequence).committedLength == 8)
                }
            }
        }
    }
}
