// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPWire
import Testing

extension Integration {
    /// Clients that end in the middle of something and never come back.
    @Suite("interrupted clients", .timeLimit(.minutes(5)))
    struct InterruptedTests {
        /// Sends a step of one layer to all ranks, with a claim of its own, and reads the answers.
        /// - Returns: the connections, which the client still has.
        private static func send(
            _ trace: Trace, _ range: Range<Int>, on sequence: SequenceHandle, _ steps: RawSteps, to cluster: TestCluster
        ) throws -> [RawConnection] {
            let connections = try cluster.local.rankEndpoints.map { try RawConnection.client($0) }
            for (rank, connection) in zip(steps.topology.shape.allRanks, connections) {
                try connection.send(
                    steps.message(trace, range, to: rank, on: sequence), epoch: steps.topology.epoch, tag: steps.tag(1))
            }
            for connection in connections {
                guard try connection.receive()?.message.stepResult != nil else { throw RawConnection.Failure.ended }
            }
            return connections
        }

        /// The simulator's track record, 15.
        @Test("a client that ended between the layers of its tokens leaves no layer ahead for the next")
        func betweenLayers() async throws {
            let trace = Trace(try shape(layers: 2, 4, 2, 16, 16, .bfloat16), tokens: 60, salt: 931)
            try await ClusterSetup(ranks: 2).run { cluster in
                let (topology, sequence) = try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s", model: "m")
                    _ = try await client.play(trace, Cuts([0, 20]), on: sequence)
                    return (try await client.readyTopology(), sequence)
                }
                _ = try await onOwnThread {
                    let steps = try RawSteps(topology: topology, claiming: sequence, in: cluster)
                    return try Self.send(trace, 20..<30, on: sequence, steps, to: cluster).count
                }
                let left = try await cluster.withClient { try await $0.status(of: sequence).layerLengths }
                #expect(left == [30, 20])
                let file = cluster.directory.path("rest.safetensors")
                let output = cluster.directory.path("o.safetensors")
                try trace.write(20..<60, layer: nil, to: file)
                let submitted = try await cluster.tool.run(
                    "submit", file, "--sequence", "s", "--model", "m", "--output", output)
                #expect(submitted.status == 0, "\(submitted.messages)")
                for layer in 0..<2 {
                    let answer = try Answer(file: output, prefix: "layers.\(layer).")
                    trace.check(answer, layer: layer, 20..<60, "layer \(layer)")
                }
                let progress = try await cluster.withClient { try await $0.status(of: sequence) }
                #expect(progress.layerLengths == [60, 60] && progress.committedLength == 60)
            }
        }

        @Test("a first chunk that one rank refuses stays on no other rank when its client has gone, without a resume")
        func refusedByOne() async throws {
            let trace = Trace(try shape(4, 2, 16, 16, .float32), tokens: 40, salt: 933)
            var spoilt = trace
            // Token 3, query head 2: one of rank 1's own, so rank 0 is not sent it; and without a context it asks nobody.
            spoilt.layers[0].queries[(3 * 4 + 2) * 16] = .greatestFiniteMagnitude
            var setup = ClusterSetup(ranks: 2)
            setup.rankArguments = ["--claim-timeout", "0.5"]
            try await setup.run { [spoilt] cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s")
                    let topology = try await client.readyTopology()
                    let verdicts = try await onOwnThread { () throws -> [Message?] in
                        let steps = try RawSteps(topology: topology, claiming: sequence, in: cluster)
                        return try zip(topology.shape.allRanks, cluster.local.rankEndpoints).map { rank, endpoint in
                            let connection = try RawConnection.client(endpoint)
                            let step = steps.message(spoilt, 0..<40, to: rank, on: sequence, queryMode: .gather)
                            try connection.send(step, epoch: topology.epoch, tag: steps.tag(1))
                            return try connection.receive()?.message
                        }
                    }
                    guard verdicts[0]?.stepResult != nil, case .failure(let error)? = verdicts[1] else {
                        Issue.record("\(verdicts)")
                        return
                    }
                    #expect(error.code == .invalidRequest, "\(error)")
                    _ = try await cluster.get("/metrics", of: .rank(RankIndex(0))) {
                        $0.sample(#"dcp_claims_ended_total{rank="0"}"#) == 1
                    }
                    #expect(try await !client.status(of: sequence).isUneven)
                    let answer = Answer(try await client.step(trace, 0..<40, on: sequence))
                    trace.check(answer, 0..<40, "after the chunk that one rank refused")
                }
            }
        }

        @Test("uncommitted tokens of a client that has gone are named, then rolled back, and others append again")
        func abandoned() async throws {
            // 8 KiB a token: a rank with 1 MiB for uncommitted tokens has room for 128, which fill no block that it could spill.
            let trace = Trace(try shape(8, 8, 128, 128, .float32), tokens: 200, salt: 932)
            var setup = ClusterSetup(ranks: 1, blockTokens: 256)
            setup.rankArguments = ["--uncommitted-limit", "1", "--claim-timeout", "0.5"]
            try await setup.run { cluster in
                try await cluster.withClient { client in
                    let held = try await client.open(trace, "held", model: "m")
                    let other = try await client.open(trace, "other", model: "m")
                    let topology = try await client.readyTopology()
                    let steps = try await onOwnThread {
                        try RawSteps(topology: topology, claiming: held, in: cluster)
                    }
                    let refusal = try await onOwnThread { () throws -> Message? in
                        let connections = try Self.send(trace, 0..<100, on: held, steps, to: cluster)
                        // While it is there nobody takes its tokens away, however long it waits.
                        let blocked = try RawSteps(topology: topology, claiming: other, in: cluster)
                        let connection = try RawConnection.client(cluster.local.rankEndpoints[0])
                        let step = blocked.message(trace, 0..<100, to: RankIndex(0), on: other)
                        try connection.send(step, epoch: topology.epoch, tag: blocked.tag(1))
                        let answer = try connection.receive()?.message
                        withExtendedLifetime(connections) {}
                        return answer
                    }
                    guard case .failure(let error)? = refusal else {
                        Issue.record("\(String(describing: refusal))")
                        return
                    }
                    #expect(error.code == .overloaded && error.isRetryable)
                    #expect(error.message.contains("\(held.record.id) 819200 bytes"), "\(error)")
                    // Its connection is closed by now: the other client has only to try again.
                    var outages = Outages(allowance: .seconds(60))
                    let output = try await client.persistently(&outages) {
                        () async throws(ServiceError) -> AttentionOutput in
                        try await client.resume(other)
                        return try await client.step(trace, 0..<100, on: other)
                    }
                    trace.check(Answer(output), 0..<100, "after the tokens were taken back")
                    #expect(try await client.status(of: held).layerLengths == [0])
                    let late = try await onOwnThread { () throws -> Message? in
                        let connection = try RawConnection.client(cluster.local.rankEndpoints[0])
                        let step = steps.message(trace, 0..<1, to: RankIndex(0), on: held)
                        try connection.send(step, epoch: topology.epoch, tag: steps.tag(2))
                        return try connection.receive()?.message
                    }
                    guard case .failure(let ended)? = late else {
                        Issue.record("\(String(describing: late))")
                        return
                    }
                    #expect(ended.code == .stepAborted && ended.message.contains("has ended"), "\(ended)")
                    #expect(try await client.resume(held).length == 0)
                }
            }
        }
    }
}
