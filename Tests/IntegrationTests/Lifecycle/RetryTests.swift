// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPWire
import Foundation
import Glibc
import Testing

extension Integration {
    /// `dcpctl submit --retry-for` through crashes.
    @Suite("retry")
    struct RetryTests {
        /// Where a rank, or the coordinator, kills itself under a submission.
        static let points = [
            FailPoint.commitSealed, .commitBefore, .commitAfter, .registerAgain, .coordinatorPersisted,
        ]

        /// Two layers; chunks of 7 do not end where blocks do.
        private static func trace() throws -> Trace {
            Trace(try shape(layers: 2, 6, 2, 32, 16, .bfloat16), tokens: 150, salt: 960)
        }

        private static let cuts = ["--prefill", "70", "--chunk", "7", "--kv-format", "bf16"]

        @Test(
            "a daemon that dies in mid-submit and is restarted: the output file is the undisturbed one's, byte by byte")
        func bitIdentical() async throws {
            let trace = try Self.trace()
            try await ClusterSetup(ranks: 3, interleave: 4).run { cluster in
                let file = cluster.directory.path("in.safetensors")
                try trace.write(layer: nil, to: file)
                func submit(_ sequence: String) -> [String] {
                    // The same sequence name in the metadata would make the files differ.
                    ["submit", file, "--model", "m", "--sequence", sequence, "--output", output(sequence)]
                        + Self.cuts + ["--json", "--timeout", "10s"]
                }
                func output(_ sequence: String) -> String { cluster.directory.path("\(sequence).safetensors") }
                let undisturbed = try await cluster.tool.run(submit("s-undisturbed"))
                #expect(undisturbed.status == 0, "\(undisturbed.messages)")
                let report = try undisturbed.object()
                #expect(report["resumes"] as? Int == 0 && report["resent_tokens"] as? Int == 0)

                for (index, point) in Self.points.enumerated() {
                    let sequence = "s-\(point.rawValue)"
                    let role = point == .coordinatorPersisted ? DaemonRole.coordinator : .rank(RankIndex(1))
                    // A restart with the point armed; the coordinator comes to its own when the sequence is opened.
                    try await cluster.local.kill(role)
                    let count = point == .coordinatorPersisted || point == .registerAgain ? 1 : 3 + index
                    try cluster.local.start(
                        role, environment: ["DCP_FAIL_POINT": "\(point.rawValue):\(count)"])
                    let armed = try #require(cluster.local.daemon(role))
                    async let outcome = cluster.tool.run(submit(sequence) + ["--retry-for", "60s"])
                    let exit = try await onOwnThread { armed.waitForExit(until: .now + .seconds(60)) }
                    #expect(exit == .signal(SIGKILL), "\(point)")
                    try cluster.local.start(role)
                    let resumed = try await outcome
                    #expect(resumed.status == 0, "\(point): \(resumed.messages)")
                    for layer in 0..<2 {
                        let prefix = "layers.\(layer)."
                        #expect(
                            try Answer(file: output(sequence), prefix: prefix)
                                == Answer(file: output("s-undisturbed"), prefix: prefix), "\(point)")
                    }
                    let counts = try resumed.object()
                    #expect(counts["committed_length"] as? Int == 150)
                    let resumes = try #require(counts["resumes"] as? Int)
                    let lines = resumed.messages.split(separator: "\n").count { $0.contains("resumed after") }
                    #expect(resumes == lines, "\(point): \(resumed.messages)")
                    if [FailPoint.commitSealed, .commitBefore, .commitAfter].contains(point) {
                        #expect(resumes >= 1 && resumed.messages.contains("rank 1"), "\(resumed.messages)")
                    }
                    // Both layers' tokens of the commit that never was have to come again, at most once a chunk.
                    if point == .commitBefore { #expect(counts["resent_tokens"] as? Int == 2 * 7) }
                }
            }
        }

        @Test("after --retry-for without recovery the command fails with the reason and the committed length")
        func tooLong() async throws {
            let trace = try Self.trace()
            try await ClusterSetup(ranks: 2).run { cluster in
                let file = cluster.directory.path("in.safetensors")
                try trace.write(layer: nil, to: file)
                try await cluster.local.killRank(1)
                try await cluster.tool.fails(
                    75, saying: ["rank 1", "--retry-for"],
                    ["submit", file, "--retry-for", "300ms", "--timeout", "10s"])
            }
        }

        @Test("a request of an older epoch is refused with both epochs named, whether the rank serves or not")
        func olderEpoch() async throws {
            let trace = try Self.trace()
            try await ClusterSetup(ranks: 2).run { cluster in
                let (topology, sequence) = try await cluster.withClient { client in
                    (try await client.readyTopology(), try await client.open(trace, "s", model: "m"))
                }
                try await cluster.local.killRank(1)
                try cluster.local.startRank(1)
                try await cluster.waitUntilReady()
                let current = try await cluster.withClient { try await $0.readyTopology().epoch }
                #expect(current > topology.epoch)
                let endpoint = cluster.local.rankEndpoints[0]
                for isServing in [true, false] {
                    if !isServing { try await cluster.local.killRank(1) }
                    let steps = RawSteps(topology: topology)
                    let messages: [Message] = [
                        .commit([SequenceLength(sequence: sequence.record.id, length: 0)]),
                        .cut(SequenceLength(sequence: sequence.record.id, length: 0)),
                        steps.message(trace, 0..<4, to: RankIndex(0), on: sequence),
                    ]
                    let answers = try await onOwnThread {
                        let connection = try RawConnection.client(endpoint)
                        return try messages.enumerated().map { index, message in
                            try connection.send(message, epoch: topology.epoch, tag: steps.tag(UInt64(index + 1)))
                            return try connection.receive()?.message
                        }
                    }
                    for answer in answers {
                        guard let error = answer?.refusal(of: CutUncommitted.self) else {
                            Issue.record("\(String(describing: answer))")
                            continue
                        }
                        #expect(error.code == .staleEpoch && error.rank == RankIndex(0))
                        #expect(error.message.contains("\(topology.epoch)") && error.message.contains("\(current)"))
                    }
                }
            }
        }

        @Test("a client that resumes: a step never counts twice, and a lost answer is requested again")
        func unanswered() async throws {
            let trace = try Self.trace()
            try await ClusterSetup(ranks: 2).run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s", model: "m")
                    let answers = try await client.play(trace, Cuts([0, 40]), on: sequence)
                    let first = Answer(try await client.step(trace, 40..<50, on: sequence))
                    // As if its answer had been lost on the way: the ranks hold 50 tokens, the caller has 40 answered.
                    var outages = Outages(allowance: .seconds(30))
                    let lost = ServiceError(.deadlineExceeded, "lost")
                    let progress = try await client.resume(sequence, after: lost, answered: 40, &outages)
                    #expect(progress.layerLengths == [40, 40] && progress.committedLength == 40)
                    #expect(Answer(try await client.step(trace, 40..<50, on: sequence)) == first)
                    // A layer that is ahead of another falls back with it; what is answered in all layers stays.
                    let even = try await client.resume(sequence, after: lost, answered: 50, &outages)
                    #expect(even.layerLengths == [40, 40])
                    for layer in 0..<2 { _ = try await client.step(trace, 40..<50, layer: layer, on: sequence) }
                    let kept = try await client.resume(sequence, after: lost, answered: 50, &outages)
                    #expect(kept.layerLengths == [50, 50])
                    // Never below what is committed.
                    let floor = try await client.resume(sequence, after: lost, answered: 0, &outages)
                    #expect(floor.layerLengths == [40, 40])
                    #expect(answers.count == 2)
                }
            }
        }
    }
}
