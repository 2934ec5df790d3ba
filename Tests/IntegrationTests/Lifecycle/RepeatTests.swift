// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPWire
import Glibc
import Testing

extension Integration {
    /// Steps that come twice, too late, or while a rank goes.
    @Suite("repeats and departures")
    struct RepeatTests {
        private static func trace(_ salt: UInt64, tokens: Int = 40) throws -> Trace {
            Trace(try shape(4, 2, 16, 16, .bfloat16), tokens: tokens, salt: salt)
        }

        @Test("TRAPS 29: the same step sent twice while it is in flight is answered once")
        func twiceInFlight() async throws {
            let trace = try Self.trace(900)
            try await ClusterSetup(ranks: 2).run { cluster in
                let (topology, sequence) = try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s")
                    _ = try await client.play(trace, Cuts([0, 30]), on: sequence)
                    return (try await client.readyTopology(), sequence)
                }
                let endpoints = cluster.local.rankEndpoints
                let answer = try await onOwnThread {
                    let steps = try RawSteps(topology: topology, claiming: sequence, in: cluster)
                    let connections = try endpoints.map { try RawConnection.client($0) }
                    func send(to rank: Int) throws {
                        let message = steps.message(trace, 30..<40, to: RankIndex(UInt16(rank)), on: sequence)
                        try connections[rank].send(message, epoch: topology.epoch, tag: steps.tag(1))
                    }
                    func status() throws -> RankStatus {
                        try connections[0].send(.request(GetRankStatus()), epoch: topology.epoch, tag: steps.tag(2))
                        guard let status = try connections[0].receive()?.message.reply(to: GetRankStatus.self) else {
                            throw RawConnection.Failure.ended
                        }
                        return status
                    }
                    try send(to: 0)
                    try send(to: 0)
                    // Rank 0 has both, and waits for rank 1.
                    #expect(try status().stepsInFlight == 1)
                    try send(to: 1)
                    let results = try connections.map { connection -> StepResult in
                        guard let result = try connection.receive()?.message.stepResult else {
                            throw RawConnection.Failure.ended
                        }
                        return result
                    }
                    // The next frame is the answer to this and not a second result.
                    #expect(try status().stepsInFlight == 0)
                    return RawSteps.answer(results, trace.shape)
                }
                trace.check(answer, 30..<40, "sent twice")
                let lengths = try await cluster.withClient { try await $0.status(of: sequence).layerLengths }
                #expect(lengths == [40])
            }
        }

        @Test("TRAPS 29: another attempt at a finished step answers the same bits and appends nothing")
        func attempts() async throws {
            let trace = try Self.trace(901)
            try await ClusterSetup(ranks: 3).run { cluster in
                let (topology, sequence) = try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s")
                    _ = try await client.play(trace, Cuts([0, 30]), on: sequence)
                    return (try await client.readyTopology(), sequence)
                }
                let endpoints = cluster.local.rankEndpoints
                let answers = try await onOwnThread {
                    let steps = try RawSteps(topology: topology, claiming: sequence, in: cluster)
                    let connections = try endpoints.map { try RawConnection.client($0) }
                    return try (0..<UInt16(3)).map { attempt in
                        var tag = steps.tag(1)
                        tag.attempt = attempt
                        for (rank, connection) in connections.enumerated() {
                            let message = steps.message(trace, 30..<40, to: RankIndex(UInt16(rank)), on: sequence)
                            try connection.send(message, epoch: topology.epoch, tag: tag)
                        }
                        let results = try connections.map { connection -> StepResult in
                            guard let frame = try connection.receive(), let result = frame.message.stepResult
                            else { throw RawConnection.Failure.ended }
                            #expect(frame.tag == tag)
                            return result
                        }
                        return RawSteps.answer(results, trace.shape)
                    }
                }
                #expect(answers[0] == answers[1] && answers[0] == answers[2])
                trace.check(answers[0], 30..<40, "attempts")
                let progress = try await cluster.withClient { try await $0.status(of: sequence) }
                #expect(progress.layerLengths == [40] && !progress.isUneven)
            }
        }

        @Test("TRAPS 42: after a rank started again, frames of the epoch before are refused, naming both epochs")
        func olderEpoch() async throws {
            let trace = try Self.trace(902)
            try await ClusterSetup(ranks: 3).run { cluster in
                let (old, sequence) = try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s")
                    _ = try await client.play(trace, Cuts([0, 30]), on: sequence)
                    return (try await client.readyTopology(), sequence)
                }
                try await cluster.local.killRank(1)
                try cluster.local.startRank(1)
                try await cluster.waitUntilReady()
                let new = try await cluster.withClient { try await $0.readyTopology() }
                #expect(new.epoch > old.epoch)
                let endpoints = cluster.local.rankEndpoints
                try await onOwnThread {
                    let steps = RawSteps(topology: old)
                    for (rank, endpoint) in endpoints.enumerated() {
                        let connection = try RawConnection.client(endpoint)
                        let step = steps.message(trace, 30..<40, to: RankIndex(UInt16(rank)), on: sequence)
                        let commit = Message.commit([SequenceLength(sequence: sequence.record.id, length: 30)])
                        for (number, message) in [step, commit].enumerated() {
                            try connection.send(message, epoch: old.epoch, tag: steps.tag(UInt64(number + 1)))
                            guard case .failure(let error)? = try connection.receive()?.message else {
                                throw RawConnection.Failure.ended
                            }
                            #expect(error.code == .staleEpoch && error.isRetryable, "\(error)")
                            #expect(error.message.contains("\(old.epoch)") && error.message.contains("\(new.epoch)"))
                        }
                    }
                }
                try await cluster.withClient { client in
                    #expect(try await client.resume(sequence).layerLengths == [30])
                    let answer = Answer(try await client.step(trace, 30..<40, on: sequence))
                    trace.check(answer, 30..<40, "in the new epoch")
                }
            }
        }

        @Test(
            "a rank that stops while a step runs completes it, or fails it with a retryable error; whole frames only"
        )
        func drain() async throws {
            let trace = Trace(try shape(8, 2, 64, 64, .float32), tokens: 1200, salt: 903)
            try await ClusterSetup(ranks: 2).run { cluster in
                for round in 0..<3 {
                    let (topology, sequence) = try await cluster.withClient { client in
                        (try await client.readyTopology(), try await client.open(trace, "s\(round)", model: "m"))
                    }
                    let endpoints = cluster.local.rankEndpoints
                    let victim = try #require(cluster.local.daemon(.rank(RankIndex(1))))
                    let frames = try await onOwnThread {
                        let steps = try RawSteps(topology: topology, claiming: sequence, in: cluster)
                        let connections = try endpoints.map { try RawConnection.client($0) }
                        for (rank, connection) in connections.enumerated() {
                            let message = steps.message(trace, 0..<1200, to: RankIndex(UInt16(rank)), on: sequence)
                            try connection.send(message, epoch: topology.epoch, tag: steps.tag(1))
                        }
                        // Its answer tells that rank 1 has taken the step, or ended it.
                        try connections[1].send(.request(GetRankStatus()), epoch: topology.epoch, tag: steps.tag(2))
                        var last = try connections[1].receive()
                        victim.signal(SIGTERM)
                        if last?.message.reply(to: GetRankStatus.self) != nil { last = try connections[1].receive() }
                        let first = try connections[0].receive()
                        while try connections[1].receive() != nil {}
                        #expect(!connections[0].hasPartOfFrame && !connections[1].hasPartOfFrame)
                        return [first, last]
                    }
                    var results: [StepResult] = []
                    for frame in frames {
                        switch frame?.message {
                        case .reply(let body): results.append(try body.reply(to: StepRequest.self))
                        case .failure(let error):
                            #expect(error.isRetryable && error.code != .deadlineExceeded, "\(error)")
                        default: Issue.record("round \(round): no answer")
                        }
                    }
                    if results.count == 2 {
                        trace.check(
                            RawSteps.answer(results, trace.shape).suffix(5, of: trace.shape), 1195..<1200,
                            "while rank 1 stops")
                    }
                    try await cluster.local.stop(.rank(RankIndex(1)), deadline: .seconds(30))
                    #expect(victim.waitForExit() == .status(0))
                    try cluster.local.startRank(1)
                    try await cluster.waitUntilReady()
                }
            }
        }
    }
}
