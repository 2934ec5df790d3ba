// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPWire
import Testing

extension Integration {
    /// More of something than one request, one frame or one table takes.
    @Suite("crowds")
    struct CrowdTests {
        @Test("TRAPS 19: 1,100 sequences: all statuses, a step of all of them, and a clear refusal of 1,025 at once")
        func sequences() async throws {
            let count = 1100
            let traces = (0..<2).map { [shape = try! shape(2, 1, 8, 8, .float32)] in
                Trace(shape, tokens: count, salt: UInt64(1100 + $0))
            }
            try await ClusterSetup(ranks: 2).run { cluster in
                let sequences = try await cluster.withClient { client in
                    let model = try await client.registerModel("m", traces[0].shape)
                    var sequences: [SequenceHandle] = []
                    for index in 0..<count {
                        sequences.append(try await client.openSequence("s\(index)", model: "m"))
                    }
                    var answers: [AttentionOutput] = []
                    for (position, trace) in traces.enumerated() {
                        let rows = trace.rows(0, 0..<count)
                        answers.append(
                            try await client.step(
                                layer: 0, sequences.map { $0.entry(position: position, count: 1) }, model: model,
                                queries: rows.queries, keys: rows.keys, values: rows.values))
                    }
                    check(answers[1], traces)
                    try await client.commit(
                        sequences.map { SequenceLength(sequence: $0.record.id, length: 2) })
                    let statuses = try await client.statuses(of: sequences)
                    #expect(statuses.count == count)
                    #expect(statuses.values.allSatisfy { $0.committedLength == 2 && $0.layerLengths == [2] })
                    return sequences
                }
                let epoch = try await cluster.withClient { try await $0.readyTopology().epoch }
                let endpoint = cluster.local.rankEndpoints[1]
                try await onOwnThread {
                    let connection = try RawConnection.client(endpoint)
                    let client = ClientID.random()
                    for (number, asked) in [1025, 1024].enumerated() {
                        let ids = sequences.prefix(asked).map(\.record.id)
                        try connection.send(
                            .request(Many(ids.map { GetSequenceStatus($0) })), epoch: epoch,
                            tag: Tag(client: client, number: UInt64(number)))
                        switch try connection.receive()?.message {
                        case .failure(let error):
                            #expect(asked == 1025 && error.code == .protocolViolation)
                            #expect(error.message.contains("1025") && error.message.contains("limit is 1024"))
                        case let answer:
                            let answers = answer?.reply(to: Many<GetSequenceStatus>.self)?.answers
                            #expect(asked == 1024 && answers?.compactMap { try? $0.get() }.count == 1024)
                        }
                    }
                }
            }
        }

        /// Each entry's second token sees its first and itself.
        private func check(_ answer: AttentionOutput, _ traces: [Trace]) {
            let shape = traces[0].shape
            let (wide, narrow) = (shape.queryHeads * shape.keyDim, shape.kvHeads * shape.keyDim)
            var reference = ReferenceAttention.Result(outputs: [], lse: [])
            for index in 0..<traces[0].tokens {
                func rows(_ values: [Float], _ width: Int) -> [Float] {
                    Array(values[index * width..<(index + 1) * width])
                }
                let one = ReferenceAttention(shape[0]).attend(
                    queries: rows(traces[1].layers[0].queries, wide),
                    keys: traces.flatMap { rows($0.layers[0].keys, narrow) },
                    values: traces.flatMap { rows($0.layers[0].values, narrow) }, position: 1)
                reference.outputs += one.outputs
                reference.lse += one.lse
            }
            let (output, lse) = Answer(answer).errors(reference)
            #expect(output <= Answer.outputErrorMax && lse <= Answer.lseErrorMax, "o off by \(output), lse by \(lse)")
        }

        @Test("ten models with names of one letter: they are listed, and ranks that have them start again")
        func models() async throws {
            let trace = Trace(try shape(2, 1, 8, 8, .bfloat16), tokens: 20, salt: 1110)
            let names = "abcdefghij".map(String.init)
            try await ClusterSetup(ranks: 3).run { cluster in
                try await cluster.withClient { client in
                    for name in names { try await client.registerModel(name, trace.shape) }
                    let sequence = try await client.openSequence("s", model: "j")
                    _ = try await client.play(trace, Cuts([0, 10]), on: sequence)
                }
                for role in cluster.local.roles where role != .coordinator { try await cluster.local.kill(role) }
                for role in cluster.local.roles where role != .coordinator { try cluster.local.start(role) }
                try await cluster.waitUntilReady()
                let listed = try await cluster.tool.run("model", "list", "--json").list()
                #expect(listed.compactMap { $0["name"] as? String }.sorted() == names)
                #expect(try await cluster.tool.run("model", "list").status == 0)
                try await cluster.withClient { client in
                    let sequence = try await client.openSequence("s", model: "j")
                    let answers = try await client.play(trace, Cuts([10, 20]), on: sequence)
                    trace.check(answers[0], 10..<20, "after the ranks started again")
                }
            }
        }

        @Test("a step whose answer no frame could hold is refused with the limit, and nothing is appended")
        func tooLongAnswer() async throws {
            // 64 heads on each of 2 ranks x 4,100 tokens x 257 numbers x 4 bytes: 270 MB each; the request is small.
            let trace = Trace(try shape(128, 1, 8, 256, .bfloat16), tokens: 4100, salt: 1120)
            try await ClusterSetup(ranks: 2).run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s")
                    let error = await #expect(throws: ServiceError.self) {
                        try await client.step(trace, 0..<4100, on: sequence)
                    }
                    #expect(error?.code == .invalidRequest)
                    #expect(error?.message.contains("268435456") == true, "\(String(describing: error))")
                    let progress = try await client.resume(sequence)
                    #expect(progress.layerLengths == [0] && !progress.isUneven)
                    let answer = Answer(try await client.step(trace, 0..<9, on: sequence))
                    trace.check(answer, 0..<9, "after the refusal")
                }
            }
        }

        @Test("TRAPS 44: at 72,793 tokens four ranks answer as one does, and both as float64")
        func drift() async throws {
            let tokens = 72_793
            let trace = Trace(try shape(2, 1, 8, 8, .float32), tokens: tokens, salt: 44)
            var answers: [Answer] = []
            for ranks in [4, 1] {
                try await ClusterSetup(ranks: ranks, blockTokens: 64, threads: ranks == 1 ? 2 : 1).run { cluster in
                    try await cluster.withClient { client in
                        let sequence = try await client.open(trace, "long")
                        let tail = tokens - 8..<tokens
                        let cuts = Cuts(Array(stride(from: 0, to: tail.lowerBound, by: 4096)) + [tail.lowerBound])
                        for range in cuts.ranges { _ = try await client.step(trace, range, on: sequence) }
                        try await client.commit(sequence, tail.lowerBound)
                        let answer = Answer(try await client.step(trace, tail, on: sequence))
                        trace.check(answer, tail, "\(ranks) ranks")
                        answers.append(answer)
                    }
                }
            }
            let worst = zip(answers[0].outputs, answers[1].outputs).map { abs($0 - $1) }.max()
            #expect(try #require(worst) < 1e-5)
        }
    }
}
