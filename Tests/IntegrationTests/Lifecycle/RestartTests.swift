// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPWire
import Testing

extension Integration {
    /// What a restart leaves of sequences: every committed bit.
    @Suite("restart")
    struct RestartTests {
        static let setups = [
            ClusterSetup(ranks: 3, interleave: 4), ClusterSetup(ranks: 2, blockTokens: 64),
            ClusterSetup(ranks: 4, headGroups: 2),
        ]
        /// Two layers; the prefill ends inside a block, so that sealed blocks and tails are read back.
        private static let prefill = Cuts(counts: [100, 33])
        private static let decode = Cuts(from: 133, counts: [1, 1, 7, 1, 2, 30, 1])

        private static func trace(_ salt: UInt64, isMixed: Bool = false) throws -> Trace {
            let shape = isMixed ? try mixedShape() : try shape(layers: 2, 6, 2, 32, 16, .bfloat16)
            return Trace(shape, tokens: decode.end, salt: salt)
        }

        @Test(
            "every daemon stopped and started between prefill and decode: not a bit differs", arguments: setups,
            [false, true])
        func restartBetween(setup: ClusterSetup, isMixed: Bool) async throws {
            let trace = try Self.trace(100, isMixed: isMixed)
            try await setup.run { cluster in
                let (undisturbed, prefill) = try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "undisturbed", model: "m")
                    let whole = try await client.play(
                        trace, Cuts(Self.prefill.positions + Self.decode.positions), on: sequence)
                    let disturbed = try await client.open(trace, "disturbed", model: "m")
                    return (whole, try await client.play(trace, Self.prefill, on: disturbed))
                }
                try await cluster.restart()
                try await cluster.withClient { client in
                    let sequence = try await client.openSequence("disturbed", model: nil)
                    let progress = try await client.status(of: sequence)
                    #expect(progress.committedLength == 133 && progress.layerLengths.allSatisfy { $0 == 133 })
                    #expect(sequence.model.description == trace.shape)
                    let decode = try await client.play(trace, Self.decode, on: sequence, commit: .everyStep)
                    let joined = zip(prefill, decode).map { prefill, decode in
                        var answer = prefill
                        answer.append(decode)
                        return answer
                    }
                    #expect(joined == undisturbed)
                    trace.check(joined, setup.testDescription)
                    #expect(try await client.status(of: sequence).committedLength == trace.tokens)
                }
            }
        }

        @Test(
            "fork, truncate and continue equal an undisturbed run, before and after a restart",
            arguments: [false, true])
        func forkAndTruncate(isMixed: Bool) async throws {
            let trace = try Self.trace(101, isMixed: isMixed)
            let other = try Self.trace(102, isMixed: isMixed)
            let cuts = Cuts([0, 60, 90, 133, 140, 171])
            try await ClusterSetup(ranks: 3, interleave: 4).run { cluster in
                let undisturbed = try await cluster.withClient { client in
                    let answers = try await client.play(trace, cuts, on: client.open(trace, "undisturbed", model: "m"))
                    _ = try await client.play(trace, cuts, on: client.open(trace, "parent", model: "m"))
                    return answers
                }
                let rest = Cuts([90, 133, 140, 171])
                let expected = undisturbed.indices.map { undisturbed[$0].suffix(81, of: trace.shape, layer: $0) }
                for round in ["running", "restarted"] {
                    try await cluster.withClient { client in
                        // A fork inside a block goes another way, and its own fork comes back to the first.
                        try await client.fork("parent", as: "fork-\(round)", length: 90)
                        let fork = try await client.openSequence("fork-\(round)", model: nil)
                        _ = try await client.play(other, Cuts([90, 120, 171]), on: fork)
                        try await client.fork("fork-\(round)", as: "grandchild-\(round)", length: 90)
                        let grandchild = try await client.openSequence("grandchild-\(round)", model: nil)
                        #expect(try await client.play(trace, rest, on: grandchild) == expected, "\(round)")
                        try await client.cut("fork-\(round)", to: 90)
                        #expect(try await client.status(of: fork).layerLengths.allSatisfy { $0 == 90 })
                        #expect(try await client.play(trace, rest, on: fork) == expected, "\(round)")
                        // The parent lost nothing to them.
                        try await client.cut("parent", to: 90)
                        let parent = try await client.openSequence("parent", model: nil)
                        #expect(try await client.play(trace, rest, on: parent) == expected, "\(round)")
                    }
                    if round == "running" { try await cluster.restart() }
                }
            }
        }

        @Test("uncommitted tokens are lost at a restart, and the sequence continues from its last commit")
        func uncommitted() async throws {
            let trace = try Self.trace(103)
            try await ClusterSetup(ranks: 2).run { cluster in
                let before = try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s", model: "m")
                    _ = try await client.play(trace, Cuts([0, 50]), on: sequence)
                    return try await client.play(trace, Cuts([50, 80]), on: sequence, commit: .never)
                }
                try await cluster.restart()
                try await cluster.withClient { client in
                    let sequence = try await client.openSequence("s", model: nil)
                    #expect(try await client.status(of: sequence).layerLengths == [50, 50])
                    #expect(try await client.play(trace, Cuts([50, 80]), on: sequence) == before)
                }
            }
        }

        @Test("close frees the blocks that no fork shares, and the name")
        func closing() async throws {
            let trace = try Self.trace(104)
            try await ClusterSetup(ranks: 2).run { cluster in
                try await cluster.withClient { client in
                    func blocks() async throws -> UInt64 {
                        try await client.rankStatuses().reduce(0) { $0 + $1.sealedBlocks }
                    }
                    let none = try await blocks()
                    let sequence = try await client.open(trace, "s", model: "m")
                    _ = try await client.play(trace, Cuts([0, 133]), on: sequence)
                    let some = try await blocks()
                    #expect(some > none)
                    try await client.fork("s", as: "fork", length: 133)
                    #expect(try await blocks() == some)
                    try await client.closeSequence("s")
                    #expect(try await blocks() == some)
                    let fork = try await client.openSequence("fork", model: nil)
                    let answer = try await client.play(trace, Cuts([133, 140]), on: fork)
                    trace.check(answer[0], 133..<140, "a fork of a closed sequence")
                    try await client.closeSequence("fork")
                    #expect(try await blocks() == none)
                    #expect(try await client.sequences().isEmpty)
                    let error = await #expect(throws: ServiceError.self) {
                        try await client.openSequence("s", model: nil)
                    }
                    #expect(error?.code == .unknownSequence)
                    let again = try await client.openSequence("s", model: "m")
                    #expect(try await client.status(of: again).committedLength == 0)
                }
            }
        }
    }
}

extension TestCluster {
    /// SIGTERM to every daemon, then all are started on what they left.
    fileprivate func restart() async throws {
        let reports = await local.stop(deadline: .seconds(60))
        for report in reports {
            guard case .stopped = report.outcome else {
                Issue.record("\(report.role): \(report.outcome)")
                continue
            }
        }
        for role in local.roles { try local.start(role) }
        try await waitUntilReady()
    }
}
