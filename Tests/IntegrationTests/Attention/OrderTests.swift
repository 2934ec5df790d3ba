// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPWire
import Testing

extension Integration {
    /// What a step's place among others may and may not do.
    @Suite("order and positions")
    struct OrderTests {
        static let exchanges = [Exchange.allToAll, .allGatherReduceScatter]

        @Test("two clients that send to the ranks in opposite order both get their answers", arguments: exchanges)
        func oppositeOrder(exchange: Exchange) async throws {
            let traces = [UInt64(1), 2].map { salt in
                Result { Trace(try shape(5, 1, 16, 16, .bfloat16), tokens: 50, salt: 90 + salt) }
            }
            let (a, b) = (try traces[0].get(), try traces[1].get())
            try await ClusterSetup(ranks: 2, exchange: exchange).run { cluster in
                let (topology, first, second) = try await cluster.withClient { client in
                    let first = try await client.open(a, "a", model: "m")
                    let second = try await client.open(b, "b", model: "m")
                    _ = try await client.play(a, Cuts([0, 40]), on: first)
                    _ = try await client.play(b, Cuts([0, 40]), on: second)
                    return (try await client.readyTopology(), first, second)
                }
                let endpoints = cluster.local.rankEndpoints
                let answers = try await onOwnThread {
                    let clients = try [first, second].map {
                        try RawSteps(topology: topology, claiming: $0, in: cluster)
                    }
                    let connections = try clients.map { _ in try endpoints.map { try RawConnection.client($0) } }
                    func send(_ client: Int, to rank: Int) throws {
                        let message = clients[client].message(
                            [a, b][client], 40..<50, to: RankIndex(UInt16(rank)), on: [first, second][client])
                        let connection = connections[client][rank]
                        try connection.send(message, epoch: topology.epoch, tag: clients[client].tag(1))
                        // A rank handles a connection's frames in order: this answer says that the step is in flight.
                        try connection.send(
                            .request(GetRankStatus()), epoch: topology.epoch, tag: clients[client].tag(2))
                    }
                    func status(_ client: Int, of rank: Int) throws {
                        guard
                            let status = try connections[client][rank].receive()?.message.reply(to: GetRankStatus.self)
                        else {
                            throw RawConnection.Failure.ended
                        }
                        #expect(status.stepsInFlight == 1)
                    }
                    try send(0, to: 0)
                    try send(1, to: 1)
                    try status(0, of: 0)
                    try status(1, of: 1)
                    try send(0, to: 1)
                    try send(1, to: 0)
                    return try (0...1).map { client in
                        let results = try (0...1).map { rank -> StepResult in
                            while let frame = try connections[client][rank].receive() {
                                if let result = frame.message.stepResult { return result }
                            }
                            throw RawConnection.Failure.ended
                        }
                        return RawSteps.answer(results, a.shape)
                    }
                }
                a.check(answers[0], 40..<50, "the first client")
                b.check(answers[1], 40..<50, "the second client")
            }
        }

        @Test("one client's steps A, B at one rank and B, A at the other both complete", arguments: exchanges)
        func oppositeSteps(exchange: Exchange) async throws {
            let shape = try shape(5, 1, 16, 16, .bfloat16)
            let traces = (0..<2).map { Trace(shape, tokens: 60, salt: UInt64(80 + $0)) }
            try await ClusterSetup(ranks: 2, exchange: exchange).run { cluster in
                let (topology, sequences) = try await cluster.withClient { client in
                    var sequences: [SequenceHandle] = []
                    for (index, trace) in traces.enumerated() {
                        sequences.append(try await client.open(trace, "s\(index)", model: "m"))
                        _ = try await client.play(trace, Cuts([0, 30]), on: sequences[index])
                    }
                    return (try await client.readyTopology(), sequences)
                }
                let endpoints = cluster.local.rankEndpoints
                let answers = try await onOwnThread {
                    let steps = try RawSteps(
                        topology: topology, claiming: sequences[0], sequences[1], in: cluster)
                    let connections = try endpoints.map { try RawConnection.client($0) }
                    for (rank, order) in [[0, 1], [1, 0]].enumerated() {
                        for index in order {
                            try connections[rank].send(
                                steps.message(
                                    traces[index], 30..<60, to: RankIndex(UInt16(rank)), on: sequences[index]),
                                epoch: topology.epoch, tag: steps.tag(UInt64(index + 1)))
                        }
                    }
                    var results: [UInt64: [StepResult]] = [:]
                    for connection in connections {
                        for _ in 0..<2 {
                            guard let frame = try connection.receive(), let result = frame.message.stepResult
                            else { throw RawConnection.Failure.ended }
                            results[frame.tag.number, default: []].append(result)
                        }
                    }
                    return (1...2).map { RawSteps.answer(results[$0] ?? [], shape) }
                }
                for (index, trace) in traces.enumerated() { trace.check(answers[index], 30..<60, "step \(index)") }
            }
        }

        @Test("TRAPS 29: a step at another position is refused with both numbers, and changes nothing")
        func position() async throws {
            let trace = Trace(try shape(4, 2, 16, 16, .bfloat16), tokens: 60, salt: 29)
            try await ClusterSetup(ranks: 3).run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "positions")
                    var answer = Answer(try await client.step(trace, 0..<40, on: sequence))
                    for wrong in [39, 41, 0, 1000] {
                        let error = await #expect(throws: ServiceError.self) {
                            let rows = trace.rows(0, 40..<41)
                            return try await client.step(
                                layer: 0, [sequence.entry(position: wrong, count: 1)], model: sequence.model,
                                queries: rows.queries, keys: rows.keys, values: rows.values)
                        }
                        #expect(error?.code == .positionMismatch)
                        #expect(error?.message.contains("position \(wrong),") == true)
                        #expect(error?.message.contains("has 40 tokens") == true)
                        #expect(try await client.resume(sequence).layerLengths == [40])
                    }
                    answer.append(try await client.step(trace, 40..<60, on: sequence))
                    trace.check([answer], "after the refusals")
                }
            }
        }

        @Test("TRAPS 29: the same step sent again answers the same and appends nothing")
        func repeated() async throws {
            let trace = Trace(try shape(4, 2, 16, 16, .bfloat16), tokens: 41, salt: 30)
            try await ClusterSetup(ranks: 2).run { cluster in
                let (topology, sequence) = try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "repeats")
                    _ = try await client.play(trace, Cuts([0, 40]), on: sequence)
                    return (try await client.readyTopology(), sequence)
                }
                let endpoints = cluster.local.rankEndpoints
                let answers = try await onOwnThread {
                    let steps = try RawSteps(topology: topology, claiming: sequence, in: cluster)
                    let connections = try endpoints.map { try RawConnection.client($0) }
                    return try (0..<3).map { _ in
                        for (rank, connection) in connections.enumerated() {
                            try connection.send(
                                steps.message(trace, 40..<41, to: RankIndex(UInt16(rank)), on: sequence),
                                epoch: topology.epoch, tag: steps.tag(7))
                        }
                        let results = try connections.map { connection -> StepResult in
                            guard let result = try connection.receive()?.message.stepResult else {
                                throw RawConnection.Failure.ended
                            }
                            return result
                        }
                        return RawSteps.answer(results, trace.shape)
                    }
                }
                #expect(answers[0] == answers[1] && answers[0] == answers[2])
                trace.check(answers[0], 40..<41, "the repeated step")
                let lengths = try await cluster.withClient { try await $0.status(of: sequence).layerLengths }
                #expect(lengths == [41])
            }
        }
    }
}
