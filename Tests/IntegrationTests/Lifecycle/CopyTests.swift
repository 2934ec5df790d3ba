// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPWire
import Testing

extension Integration {
    /// A step that comes again after its answer. The simulator's track record, 6 and 7.
    @Suite("copies of steps", .timeLimit(.minutes(5)))
    struct CopyTests {
        private enum Failure: Error {
            case unexpected(Message?)
            case noPartial
        }

        private static func result(_ connection: RawConnection) throws -> StepResult {
            let message = try connection.receive()?.message
            guard let result = message?.stepResult else { throw Failure.unexpected(message) }
            return result
        }

        @Test("a copy of an answered step that comes after a truncation to its position is refused and appends nothing")
        func afterTruncation() async throws {
            let trace = Trace(try shape(4, 2, 16, 16, .float32), tokens: 40, salt: 908)
            try await ClusterSetup(ranks: 2).run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s")
                    _ = try await client.play(trace, Cuts([0, 30]), on: sequence)
                    let topology = try await client.readyTopology()
                    let steps = try await onOwnThread {
                        try RawSteps(topology: topology, claiming: sequence, in: cluster)
                    }
                    let endpoints = cluster.local.rankEndpoints
                    @Sendable func send() throws -> [Message] {
                        try zip(steps.topology.shape.allRanks, endpoints).map { rank, endpoint in
                            let connection = try RawConnection.client(endpoint)
                            try connection.send(
                                steps.message(trace, 30..<40, to: rank, on: sequence), epoch: steps.topology.epoch,
                                tag: steps.tag(1))
                            return connection
                        }.map { (connection: RawConnection) in
                            guard let frame = try connection.receive() else { throw RawConnection.Failure.ended }
                            return frame.message
                        }
                    }
                    let first = try await onOwnThread { try send() }
                    #expect(first.allSatisfy { $0.stepResult != nil })
                    let commits = try await onOwnThread {
                        try endpoints.map { endpoint -> Message? in
                            let connection = try RawConnection.client(endpoint)
                            let commit = Message.commit([steps.length(40, of: sequence)])
                            try connection.send(commit, epoch: topology.epoch, tag: steps.tag(2))
                            return try connection.receive()?.message
                        }
                    }
                    #expect(commits.allSatisfy { $0?.isCommitted ?? false })
                    // By the same client, so that its claim is still the latest.
                    let cut = Message.item(
                        TruncateSequence(name: "s", length: 30, claim: steps.claims[sequence.record.id]!))
                    let coordinator = cluster.local.coordinatorEndpoint
                    let answer = try await onOwnThread { try RawConnection.client(coordinator).ask(cut, number: 9) }
                    guard answer.answer(to: TruncateSequence.self) != nil else {
                        Issue.record("\(answer)")
                        return
                    }
                    for message in try await onOwnThread({ try send() }) {
                        guard case .failure(let error) = message else {
                            Issue.record("a copy was answered: \(message.type)")
                            continue
                        }
                        #expect(error.code == .stepAborted && error.message.contains("has ended"), "\(error)")
                    }
                    #expect(try await client.status(of: sequence).layerLengths == [30])
                }
            }
        }

        @Test("a peer's messages for a step that is repeated after its answer wait for the request")
        func peerFirst() async throws {
            let trace = Trace(try shape(4, 2, 16, 16, .float32), tokens: 40, salt: 909)
            try await ClusterSetup(ranks: 2).run { cluster in
                let (topology, sequence) = try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s")
                    _ = try await client.play(trace, Cuts([0, 30]), on: sequence)
                    return (try await client.readyTopology(), sequence)
                }
                let endpoints = cluster.local.rankEndpoints
                let answers = try await onOwnThread { () throws -> [Answer] in
                    let steps = try RawSteps(topology: topology, claiming: sequence, in: cluster)
                    let connections = try endpoints.map { try RawConnection.client($0) }
                    let watch = try RawConnection.client(endpoints[0])
                    func send(to rank: Int) throws {
                        let message = steps.message(trace, 30..<40, to: RankIndex(UInt16(rank)), on: sequence)
                        try connections[rank].send(message, epoch: topology.epoch, tag: steps.tag(1))
                    }
                    func received() throws -> UInt64 {
                        try watch.send(.request(GetRankStatus()), epoch: topology.epoch, tag: steps.tag(2))
                        let message = try watch.receive()?.message
                        guard let status = message?.reply(to: GetRankStatus.self) else {
                            throw Failure.unexpected(message)
                        }
                        return status.receiveByteCount
                    }
                    try send(to: 0)
                    try send(to: 1)
                    let first = try connections.map { try Self.result($0) }
                    // Rank 0 gets the request only after the partial that rank 1 has sent for it, of more than 1000 bytes.
                    // All else that it receives between two of these questions is smaller.
                    var last = try received()
                    try send(to: 1)
                    // Here, because the thread does not end with the test's time limit.
                    let deadline = ContinuousClock.now + .seconds(60)
                    while true {
                        let now = try received()
                        if now > last + 1000 { break }
                        guard ContinuousClock.now < deadline else { throw Failure.noPartial }
                        last = now
                    }
                    try send(to: 0)
                    let again = try connections.map { try Self.result($0) }
                    return [RawSteps.answer(first, trace.shape), RawSteps.answer(again, trace.shape)]
                }
                #expect(answers[0] == answers[1])
                trace.check(answers[1], 30..<40, "the repeated step")
            }
        }
    }
}
