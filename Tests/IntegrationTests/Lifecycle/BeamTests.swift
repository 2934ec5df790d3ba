// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import Testing

extension Integration {
    /// Forks of what is not committed.
    @Suite("beams")
    struct BeamTests {
        private static let beams = 8
        private static let committed = 20
        /// Where the beams part: in the middle of a block, and behind full ones.
        private static let parting = 75
        private static let tokens = 110
        private static let prefix = Cuts([0, committed, 61, parting])
        private static let rest = Cuts([parting, parting + 1, parting + 2, 95, tokens])

        private static func trace(_ salt: UInt64) throws -> Trace {
            Trace(try mixedShape(), tokens: tokens, salt: salt)
        }

        /// Each with tokens of its own from the parting on; the first is the one that they part from.
        private static func traces() throws -> [Trace] {
            let main = try trace(1300)
            return try [main] + (1...beams).map { main.continued(from: parting, as: try trace(1300 + UInt64($0))) }
        }

        /// The answers from the parting on, of sequences that were built alone.
        private func undisturbed(_ traces: [Trace], _ client: Cluster) async throws -> [[Answer]] {
            var answers: [[Answer]] = []
            for (index, trace) in traces.enumerated() {
                let sequence = try await client.open(trace, "alone-\(index)", model: "m")
                _ = try await client.play(trace, Self.prefix, on: sequence)
                answers.append(try await client.play(trace, Self.rest, on: sequence))
                for layer in 0..<trace.shape.layers {
                    trace.check(answers[index][layer], layer: layer, Self.parting..<Self.tokens, "alone \(index)")
                }
                try await client.closeSequence("alone-\(index)")
            }
            return answers
        }

        /// A sequence of which only the beginning is committed.
        private func begin(_ trace: Trace, _ client: Cluster) async throws -> SequenceHandle {
            let sequence = try await client.open(trace, "main", model: "m")
            _ = try await client.play(trace, Cuts([0, Self.committed]), on: sequence)
            _ = try await client.play(
                trace, Cuts(Self.prefix.positions.filter { $0 >= Self.committed }), on: sequence, commit: .never)
            return sequence
        }

        private func fork(_ client: Cluster) async throws -> [SequenceHandle] {
            var beams: [SequenceHandle] = []
            for index in 1...Self.beams {
                try await client.fork("main", as: "beam-\(index)", length: Self.parting)
                beams.append(try await client.openSequence("beam-\(index)", model: nil))
            }
            return beams
        }

        @Test(
            "beams continue from uncommitted tokens, each as if it were alone; one is committed, the others are closed")
        func beams() async throws {
            let traces = try Self.traces()
            var setup = ClusterSetup(ranks: 4, headGroups: 2, interleave: 4)
            setup.rankArguments = ["--uncommitted-limit", "1"]
            try await setup.run { cluster in
                let (expected, sequences) = try await cluster.withClient { client in
                    let expected = try await undisturbed(traces, client)
                    let main = try await begin(traces[0], client)
                    let sequences = [main] + (try await fork(client))
                    for sequence in sequences {
                        let progress = try await client.status(of: sequence)
                        #expect(progress.length == Self.parting && progress.committedLength == Self.committed)
                    }
                    // By turns, and the one that they part from with them.
                    var answers = sequences.map { _ in [Answer](repeating: Answer(), count: 3) }
                    for range in Self.rest.ranges {
                        for (index, sequence) in sequences.enumerated() {
                            for layer in 0..<3 {
                                answers[index][layer].append(
                                    try await client.step(traces[index], range, layer: layer, on: sequence))
                            }
                        }
                    }
                    #expect(answers == expected)
                    // What one is rewound, cut or closed the others do not feel.
                    try await client.resume(main, atMost: 30)
                    try await client.cut("beam-1", to: 10)
                    try await client.closeSequence("beam-2")
                    try await client.commit(sequences[3], Self.tokens)
                    #expect(try await client.status(of: sequences[3]).committedLength == Self.tokens)
                    for index in 3...Self.beams {
                        try await client.resume(sequences[index], atMost: Self.parting)
                        guard index > 3 else { continue }
                        #expect(
                            try await client.play(traces[index], Self.rest, on: sequences[index], commit: .never)
                                == expected[index])
                    }
                    for index in 4...Self.beams { try await client.closeSequence("beam-\(index)") }
                    return (expected, sequences)
                }
                for rank in 0..<4 { try await cluster.local.killRank(rank) }
                for rank in 0..<4 { try cluster.local.startRank(rank) }
                try await cluster.waitUntilReady()
                try await cluster.withClient { client in
                    let main = sequences[0]
                    try await client.resume(sequences[3])
                    try await client.cut("beam-3", to: Self.parting)
                    #expect(try await client.play(traces[3], Self.rest, on: sequences[3]) == expected[3])
                    try await client.resume(main)
                    let rest = Cuts([Self.committed, 61, Self.parting] + Self.rest.positions)
                    let again = try await client.play(traces[0], rest, on: main)
                    for layer in 0..<3 {
                        let tail = again[layer].suffix(Self.tokens - Self.parting, of: traces[0].shape, layer: layer)
                        #expect(tail == expected[0][layer])
                    }
                    for rank in try await client.verify() { #expect(!rank.hasDamage, "\(rank.findings)") }
                }
            }
        }

        @Test("a killed rank keeps its parts of the committed tokens; each beam continues from these")
        func killed() async throws {
            let traces = try Self.traces()
            try await ClusterSetup(ranks: 2, interleave: 4).run { cluster in
                let (expected, sequences) = try await cluster.withClient { client in
                    let expected = try await undisturbed(traces, client)
                    let sequences = [try await begin(traces[0], client)] + (try await fork(client))
                    _ = try await client.step(traces[1], Self.rest.ranges[0], on: sequences[1])
                    return (expected, sequences)
                }
                try await cluster.local.killRank(1)
                try cluster.local.startRank(1)
                try await cluster.waitUntilReady()
                try await cluster.withClient { client in
                    for (index, sequence) in sequences.enumerated() {
                        #expect(try await client.resume(sequence).length == Self.committed)
                        let rest = Cuts([Self.committed, 61, Self.parting] + Self.rest.positions)
                        let again = try await client.play(traces[index], rest, on: sequence)
                        for layer in 0..<3 {
                            let tail = again[layer].suffix(
                                Self.tokens - Self.parting, of: traces[index].shape, layer: layer)
                            #expect(tail == expected[index][layer], "\(index)")
                        }
                    }
                    for rank in try await client.verify() { #expect(!rank.hasDamage, "\(rank.findings)") }
                }
            }
        }

        @Test("a fork beyond what all layers have is refused with what is there, and leaves nothing")
        func beyond() async throws {
            let trace = try Self.trace(1300)
            try await ClusterSetup(ranks: 2).run { cluster in
                try await cluster.withClient { client in
                    let main = try await begin(trace, client)
                    _ = try await client.step(trace, Self.rest.ranges[0], on: main)
                    let error = await #expect(throws: ServiceError.self) {
                        try await client.fork("main", as: "f", length: Self.parting + 1)
                    }
                    #expect(error?.message.contains("\(Self.parting) tokens") == true, "\(String(describing: error))")
                    try await client.fork("main", as: "g", length: Self.parting)
                    let fork = try await client.openSequence("g", model: nil)
                    #expect(try await client.status(of: fork).length == Self.parting)
                }
            }
        }
    }
}

extension Trace {
    /// This one up to a length, and then another of the same shape.
    fileprivate func continued(from length: Int, as other: Trace) -> Trace {
        func joined(_ own: [Float], _ others: [Float]) -> [Float] {
            let count = own.count / tokens * length
            return Array(own[..<count]) + Array(others[count...])
        }
        var trace = self
        for (index, layer) in other.layers.enumerated() {
            trace.layers[index].queries = joined(layers[index].queries, layer.queries)
            trace.layers[index].keys = joined(layers[index].keys, layer.keys)
            trace.layers[index].values = joined(layers[index].values, layer.values)
        }
        return trace
    }
}
