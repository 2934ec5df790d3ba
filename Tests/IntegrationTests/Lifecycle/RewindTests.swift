import DCPCore
import DCPTestKit
import DCPWire
import Testing

extension Integration {
    @Suite("rewind")
    struct RewindTests {
        /// The simulator's track record, 5.
        @Test(
            "a step of before a rewind that comes after it is refused; its client takes the sequence over by a rewind")
        func late() async throws {
            let trace = Trace(try shape(4, 2, 16, 16, .float32), tokens: 40, salt: 907)
            try await ClusterSetup(ranks: 2).run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s")
                    _ = try await client.play(trace, Cuts([0, 30]), on: sequence)
                    #expect(try await client.resume(sequence).layerLengths == [30])
                    let topology = try await client.readyTopology()
                    let endpoints = cluster.local.rankEndpoints
                    try await onOwnThread {
                        let steps = RawSteps(topology: topology)
                        let connections = try endpoints.map { try RawConnection.client($0) }
                        func answers(_ number: UInt64, _ message: (RankIndex) -> Message) throws -> [Message] {
                            for (rank, connection) in connections.enumerated() {
                                try connection.send(
                                    message(RankIndex(UInt16(rank))), epoch: topology.epoch, tag: steps.tag(number))
                            }
                            return try connections.map { connection in
                                guard let frame = try connection.receive() else { throw RawConnection.Failure.ended }
                                return frame.message
                            }
                        }
                        for answer in try answers(1, { steps.message(trace, 30..<40, to: $0, on: sequence) }) {
                            guard case .failure(let error) = answer else {
                                Issue.record("\(answer.type) to a step of a client whose place was taken")
                                continue
                            }
                            #expect(error.code == .stepAborted && error.message.contains("rewound"), "\(error)")
                        }
                        let rewind = Message.rewind(sequence.record.id, layerLengths: [30])
                        #expect(try answers(3, { _ in rewind }).allSatisfy { $0.type == .rewound })
                        // Older than its own rewind, then newer.
                        for (number, type) in [(2, FrameType.failure), (4, .stepResult)] as [(UInt64, FrameType)] {
                            let all = try answers(number) { steps.message(trace, 30..<40, to: $0, on: sequence) }
                            #expect(all.allSatisfy { $0.type == type }, "\(all.map(\.type))")
                        }
                    }
                    #expect(try await client.status(of: sequence).layerLengths == [40])
                }
            }
        }
    }
}
