// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPWire
import Testing

extension Integration {
    /// Going on right after a step that failed.
    @Suite("resume")
    struct ResumeTests {
        static let setups = [
            ClusterSetup(ranks: 4, threads: 2),
            ClusterSetup(ranks: 4, headGroups: 2, exchange: .allGatherReduceScatter, threads: 2),
        ]

        @Test(
            "after each of many failed steps the sequence continues immediately, with the right answers",
            arguments: setups)
        func manyFailures(setup: ClusterSetup) async throws {
            let trace = Trace(try shape(8, 4, 16, 16, .float16), tokens: 120, salt: 950)
            try await setup.run { cluster in
                try await cluster.withClient { client in
                    await client.sendUnchecked()
                    let sequence = try await client.open(trace, "s", model: "m")
                    var answer = Answer()
                    for position in stride(from: 0, to: 120, by: 3) {
                        var bad = trace
                        // Each rank and each head group in turn owns the value that its cache refuses.
                        let head = position / 3 % 4
                        bad.layers[0].keys[((position + position / 12 % 3) * 4 + head) * 16] = 1e6
                        let error = await #expect(throws: ServiceError.self) {
                            try await client.step(bad, position..<position + 3, on: sequence)
                        }
                        #expect(error?.code == .invalidRequest, "\(String(describing: error))")
                        #expect(try await client.resume(sequence).layerLengths == [position])
                        answer.append(try await client.step(trace, position..<position + 3, on: sequence))
                    }
                    trace.check([answer], setup.testDescription)
                }
            }
        }

        @Test("a client that goes away in the middle of steps leaves a sequence that another takes up")
        func abandoned() async throws {
            let trace = Trace(try shape(8, 2, 32, 32, .bfloat16), tokens: 900, salt: 951)
            try await ClusterSetup(ranks: 3, threads: 2).run { cluster in
                let (topology, sequence) = try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s", model: "m")
                    _ = try await client.play(trace, Cuts([0, 300]), on: sequence)
                    return (try await client.readyTopology(), sequence)
                }
                let endpoints = cluster.local.rankEndpoints
                for round in 0..<6 {
                    // Steps to some of the ranks or all, and nobody waits for the answer.
                    try await onOwnThread {
                        let steps = try RawSteps(topology: topology, claiming: sequence, in: cluster)
                        for rank in 0...round % 3 {
                            let connection = try RawConnection.client(endpoints[rank])
                            let message = steps.message(trace, 300..<600, to: RankIndex(UInt16(rank)), on: sequence)
                            try connection.send(message, epoch: topology.epoch, tag: steps.tag(1))
                        }
                    }
                    try await cluster.withClient { client in
                        let start = try await client.resume(sequence).layerLengths[0]
                        #expect(start == 300 || start == 600, "round \(round)")
                        let answer = Answer(try await client.step(trace, start..<start + 9, on: sequence))
                        trace.check(answer, start..<start + 9, "round \(round)")
                        try await client.cut("s", to: 300)
                    }
                }
            }
        }
    }
}
