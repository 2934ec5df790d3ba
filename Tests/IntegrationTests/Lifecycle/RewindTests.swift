import DCPClient
import DCPCore
import DCPTestKit
import DCPWire
import Testing

extension Integration {
    @Suite("rewind")
    struct RewindTests {
        /// A client without connections of its own making: it asks every rank and waits for every answer.
        private struct Stranger {
            let steps: RawSteps
            let connections: [RawConnection]

            init(_ steps: RawSteps, _ endpoints: [String]) throws {
                self.steps = steps
                connections = try endpoints.map { try RawConnection.client($0) }
            }

            func ask(_ number: UInt64, _ messages: [Message]) throws -> [Message] {
                for (connection, message) in zip(connections, messages) {
                    try connection.send(message, epoch: steps.topology.epoch, tag: steps.tag(number))
                }
                var answers: [Message] = []
                for connection in connections {
                    guard let frame = try connection.receive() else { throw RawConnection.Failure.ended }
                    answers.append(frame.message)
                }
                return answers
            }
        }

        /// What a stranger's steps and rewinds of a sequence were answered with.
        private func answers(
            _ trace: Trace, on sequence: SequenceHandle, _ steps: RawSteps, _ old: Claim, _ new: Claim,
            _ endpoints: [String]
        ) throws -> [[Message]] {
            let stranger = try Stranger(steps, endpoints)
            let step = steps.topology.shape.allRanks.map { steps.message(trace, 30..<40, to: $0, on: sequence) }
            // After another's rewind, with a claim of before it; after its own, but older than that; newer than that.
            return [
                try stranger.ask(2, step), try stranger.ask(3, Self.rewind(sequence, steps, old)),
                try stranger.ask(5, Self.rewind(sequence, steps, new)), try stranger.ask(4, step),
                try stranger.ask(6, step),
            ]
        }

        private static func rewind(_ sequence: SequenceHandle, _ steps: RawSteps, _ claim: Claim) -> [Message] {
            steps.topology.shape.allRanks.map { _ in
                .rewind(sequence.record.id, claim: claim, layerLengths: [30])
            }
        }

        /// The simulator's track record, 5.
        @Test(
            "a step of before a rewind that comes after it is refused; its client takes the sequence over by a rewind")
        func late() async throws {
            let trace = Trace(try shape(4, 2, 16, 16, .float32), tokens: 40, salt: 907)
            try await ClusterSetup(ranks: 2).run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s")
                    _ = try await client.play(trace, Cuts([0, 30]), on: sequence)
                    let steps = RawSteps(topology: try await client.readyTopology())
                    let endpoints = cluster.local.rankEndpoints
                    let coordinator = cluster.local.coordinatorEndpoint
                    func claim() async throws -> Claim {
                        try await onOwnThread { try RawConnection.client(coordinator).claim("s", number: 1) }
                    }
                    let old = try await claim()
                    let first = try await onOwnThread { () throws -> [Message] in
                        try Stranger(steps, endpoints).ask(1, Self.rewind(sequence, steps, old))
                    }
                    #expect(first.map(\.type) == [.rewound, .rewound])
                    #expect(try await client.resume(sequence).layerLengths == [30])
                    let new = try await claim()
                    let answers = try await onOwnThread { () throws -> [[Message]] in
                        try self.answers(trace, on: sequence, steps, old, new, endpoints)
                    }
                    #expect(
                        answers.map { $0.map(\.type) } == [
                            [.failure, .failure], [.failure, .failure], [.rewound, .rewound], [.failure, .failure],
                            [.stepResult, .stepResult],
                        ])
                    for answer in answers[1] {
                        guard case .failure(let error) = answer else { continue }
                        #expect(error.code == .claimed && error.message.contains("\(old)"), "\(error)")
                    }
                    for answer in answers.enumerated().filter({ $0.offset != 1 }).flatMap(\.element) {
                        guard case .failure(let error) = answer else { continue }
                        #expect(error.code == .stepAborted && error.message.contains("rewound"), "\(error)")
                    }
                    #expect(try await client.status(of: sequence).layerLengths == [40])
                }
            }
        }
    }
}
