// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPWire
import Testing

extension Integration {
    @Suite("scores that overflow", .serialized)
    struct OverflowTests {
        /// Each rank's answer to a step that comes straight from a socket: no client has looked at it.
        private func verdicts(
            _ trace: Trace, _ range: Range<Int>, on sequence: SequenceHandle, _ cluster: TestCluster
        ) async throws -> [Message?] {
            let topology = try await cluster.withClient { try await $0.readyTopology() }
            let endpoints = cluster.local.rankEndpoints
            return try await onOwnThread {
                let steps = try RawSteps(topology: topology, claiming: sequence, in: cluster)
                return try endpoints.enumerated().map { rank, endpoint in
                    let connection = try RawConnection.client(endpoint)
                    let message = steps.message(trace, range, to: RankIndex(UInt16(rank)), on: sequence)
                    try connection.send(message, epoch: steps.topology.epoch, tag: steps.tag(1))
                    return try connection.receive()?.message
                }
            }
        }

        private func refuses(
            _ bad: Trace, _ range: Range<Int>, _ number: Float, on sequence: SequenceHandle, _ cluster: TestCluster
        ) async throws {
            for verdict in try await verdicts(bad, range, on: sequence, cluster) {
                guard case .failure(let error)? = verdict else {
                    Issue.record("not refused: \(String(describing: verdict))")
                    continue
                }
                #expect(error.code == .invalidRequest, "\(error)")
                #expect(error.message.contains("overflows Float32"), "\(error)")
            }
            let file = cluster.directory.path("bad.safetensors")
            try bad.write(range, to: file)
            try await cluster.tool.fails(
                65, saying: ["overflows Float32", "\(number)"], ["submit", "--sequence", "s", "--model", "m", file])
            let lengths = try await cluster.withClient { try await $0.resume(sequence).layerLengths }
            #expect(lengths == [range.lowerBound])
        }

        @Test(
            "the numbers are refused by the tool and by every rank, and nothing is appended",
            arguments: [Float(1e19), -1e20, .greatestFiniteMagnitude])
        func refused(number: Float) async throws {
            let trace = Trace(try shape(4, 2, 64, 8, .float32), tokens: 40, salt: 603)
            try await ClusterSetup(ranks: 2).run { cluster in
                let sequence = try await cluster.withClient { try await $0.open(trace, "s", model: "m") }
                var queries = trace, keys = trace
                for index in 35 * 4 * 64..<36 * 4 * 64 { queries.layers[0].queries[index] = number }
                for index in 35 * 2 * 64..<36 * 2 * 64 { keys.layers[0].keys[index] = number }
                // Before there is a context, when ranks exchange nothing, and after.
                try await refuses(queries, 0..<40, number, on: sequence, cluster)
                try await refuses(keys, 0..<40, number, on: sequence, cluster)
                var answer = Answer(try await cluster.withClient { try await $0.step(trace, 0..<30, on: sequence) })
                try await refuses(queries, 30..<40, number, on: sequence, cluster)
                try await refuses(keys, 30..<40, number, on: sequence, cluster)
                answer.append(try await cluster.withClient { try await $0.step(trace, 30..<40, on: sequence) })
                trace.check([answer], "after the overflows")
            }
        }
    }
}
