// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
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

        private static func rewind(_ sequence: SequenceHandle, _ steps: RawSteps) -> [Message] {
            steps.topology.shape.allRanks.map { _ in .cut(steps.length(30, of: sequence)) }
        }

        /// The simulator's track record, 5.
        @Test("requests sent before another client's claim that arrive after it are refused on every rank")
        func late() async throws {
            let trace = Trace(try shape(4, 2, 16, 16, .float32), tokens: 40, salt: 907)
            try await ClusterSetup(ranks: 2).run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s")
                    _ = try await client.play(trace, Cuts([0, 30]), on: sequence)
                    let topology = try await client.readyTopology()
                    let endpoints = cluster.local.rankEndpoints
                    let old = try await onOwnThread {
                        try RawSteps(topology: topology, claiming: sequence, in: cluster)
                    }
                    let ranks = topology.shape.allRanks
                    let step = ranks.map { old.message(trace, 30..<40, to: $0, on: sequence) }
                    let commit = ranks.map { _ in Message.commit([old.length(30, of: sequence)]) }
                    #expect(try await client.resume(sequence).length == 30)
                    let refused = try await onOwnThread { () throws -> [Message] in
                        let stranger = try Stranger(old, endpoints)
                        return try stranger.ask(1, step) + stranger.ask(2, commit)
                            + stranger.ask(3, Self.rewind(sequence, old))
                    }
                    for answer in refused {
                        guard let error = answer.refusal(of: CutUncommitted.self) else {
                            Issue.record("answered: \(answer.type)")
                            continue
                        }
                        let claim = old.claims[sequence.record.id]!
                        #expect(error.code == .claimed && error.message.contains("\(claim)"), "\(error)")
                    }
                    // With a claim of its own it goes on.
                    let taken = try await onOwnThread { () throws -> [Message] in
                        let new = try RawSteps(topology: topology, claiming: sequence, in: cluster)
                        let stranger = try Stranger(new, endpoints)
                        let step = ranks.map { new.message(trace, 30..<40, to: $0, on: sequence) }
                        return try stranger.ask(1, Self.rewind(sequence, new)) + stranger.ask(2, step)
                    }
                    #expect(taken.map(\.isCut) == [true, true, false, false])
                    #expect(taken.map { $0.stepResult != nil } == [false, false, true, true])
                    #expect(try await client.status(of: sequence).layerLengths == [40])
                }
            }
        }
    }
}
