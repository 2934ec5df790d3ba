// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPWire
import Foundation
import Testing

extension Integration {
    /// Copies of a rank's store in the place of the original, and beside it. The simulator's track record, 20.
    @Suite("copies of stores", .timeLimit(.minutes(5)))
    struct StoreCopyTests {
        private static let role = DaemonRole.rank(RankIndex(1))

        private static func trace(_ salt: UInt64) throws -> Trace {
            Trace(try shape(4, 2, 16, 16, .float32), tokens: 60, salt: salt)
        }

        /// Copies rank 1's store while nobody has it open. What it holds is on the disk, and the coordinator knows.
        private static func copy(_ cluster: TestCluster, changes: Int) async throws -> String {
            let copy = cluster.directory.path("copy")
            try await recorded(changes, cluster)
            _ = try await cluster.local.stop(role, deadline: .seconds(60))
            try FileManager.default.copyItem(atPath: cluster.local.directory.data(of: role), toPath: copy)
            try cluster.local.start(role)
            try await cluster.waitUntilReady()
            return copy
        }

        /// Opening, committing and truncating are one change each. The coordinator hears of them with the leases.
        private static func recorded(_ changes: Int, _ cluster: TestCluster) async throws {
            _ = try await cluster.get("/metrics", of: .coordinator) {
                $0.sample(#"dcp_rank_store_mark{peer="1"}"#) == Double(changes)
            }
        }

        private static func refused(_ cause: String, _ cluster: TestCluster) async throws -> Double? {
            try await cluster.get("/metrics", of: .coordinator)
                .sample(#"dcp_stores_refused_total{peer="1",cause="\#(cause)"}"#)
        }

        @Test(
            "an older copy of a store is refused with 78 and both changes, and cuts nothing; accepted, it cuts sequences to its tokens, with a warning"
        )
        func older() async throws {
            let (trace, other) = (try Self.trace(941), try Self.trace(942))
            var setup = ClusterSetup(ranks: 2)
            setup.rankArguments = ["--durability", "always"]
            setup.coordinatorArguments = ["--lease", "1"]
            try await setup.run { cluster in
                let (role, local) = (Self.role, cluster.local)
                try await cluster.withClient { client in
                    for name in ["longer", "other"] {
                        _ = try await client.play(trace, Cuts([0, 30]), on: client.open(trace, name, model: "m"))
                    }
                }
                let copy = try await Self.copy(cluster, changes: 4)
                try await cluster.withClient { client in
                    let longer = try await client.openSequence("longer", model: nil)
                    _ = try await client.play(trace, Cuts([30, 50]), on: longer)
                    // As long as in the copy, and of other tokens.
                    try await client.cut("other", to: 0)
                    _ = try await client.play(other, Cuts([0, 30]), on: client.openSequence("other", model: nil))
                }
                try await Self.recorded(7, cluster)
                let newer = cluster.directory.path("newer")
                _ = try await local.stop(role, deadline: .seconds(60))
                try FileManager.default.moveItem(atPath: local.directory.data(of: role), toPath: newer)
                try FileManager.default.copyItem(atPath: copy, toPath: local.directory.data(of: role))
                try local.start(role)
                let process = try #require(local.daemon(role))
                #expect(try await onOwnThread { process.waitForExit(until: .now + .seconds(60)) } == .status(78))
                let log = try cluster.log(of: role)
                #expect(log.contains("at change 4, but change 7 was durable before"), "\(log)")
                #expect(log.contains("dcpctl store accept-older 1"), "\(log)")
                #expect(try await Self.refused("older_store", cluster) == 1)
                #expect(try cluster.log(of: .coordinator).contains("An older copy of a rank's store is refused"))

                try await local.kill(.coordinator)
                try local.start(.coordinator, arguments: ["--accept-older-store", "1:7"])
                try local.start(role)
                try await cluster.waitUntilReady()
                let warnings = try cluster.log(of: .coordinator)
                for part in [
                    "An older store is accepted", "Committed tokens that not every rank has are cut", "longer",
                    "are cut again to the same lengths",
                ] {
                    #expect(warnings.contains(part), "\(warnings)")
                }
                try await cluster.withClient { client in
                    let longer = try await client.openSequence("longer", model: nil)
                    #expect(try await client.resume(longer).layerLengths == [30])
                    let answers = try await client.play(trace, Cuts([30, 50]), on: longer)
                    trace.check(answers[0], 30..<50, "after the cut")
                    let sequence = try await client.openSequence("other", model: nil)
                    #expect(try await client.resume(sequence).committedLength == 0)
                    let again = try await client.play(other, Cuts([0, 30]), on: sequence)
                    other.check(again[0], 0..<30, "from its beginning")
                }
            }
        }

        @Test("a copy beside the original, as new as it, is refused naming both; the first serves on in its epoch")
        func second() async throws {
            let trace = try Self.trace(943)
            var setup = ClusterSetup(ranks: 2)
            setup.rankArguments = ["--durability", "always"]
            try await setup.run { cluster in
                try await cluster.withClient { client in
                    _ = try await client.play(trace, Cuts([0, 30]), on: client.open(trace, "s", model: "m"))
                }
                let copy = try await Self.copy(cluster, changes: 2)
                try await cluster.withClient { client in
                    let sequence = try await client.openSequence("s", model: nil)
                    _ = try await client.resume(sequence)
                    let epoch = try await client.readyTopology().epoch
                    let second = try DaemonProcess.spawn(
                        name: "the copy", executable: "\(Binaries.directory)/dcp-rank",
                        arguments: [
                            "--rank", "1", "--store", copy, "--listen", "unix:\(cluster.directory.path("second.sock"))",
                            "--coordinator", cluster.local.coordinatorEndpoint, "--http", "off", "--stop-on-stdin-eof",
                        ], logPath: cluster.directory.path("second.log"), lifeline: true)
                    defer { second.kill() }
                    _ = try await cluster.get("/metrics", of: .coordinator) {
                        $0.sample(#"dcp_stores_refused_total{peer="1",cause="second_holder"}"#) == 1
                    }
                    #expect(second.exit == nil)
                    let first = try #require(cluster.local.daemon(Self.role))
                    let log = try String(contentsOfFile: second.logPath, encoding: .utf8)
                    for text in [log, try cluster.log(of: .coordinator)] {
                        for process in [first, second] { #expect(text.contains("process \(process.pid)"), "\(text)") }
                        #expect(text.contains("One of the two runs on a copy"), "\(text)")
                    }
                    // With the claim of before: a new epoch would have made it void.
                    let answers = try await client.play(trace, Cuts([30, 60]), on: sequence)
                    trace.check(answers[0], 30..<60, "beside the copy")
                    #expect(try await client.topology().epoch == epoch && first.exit == nil)
                }
            }
        }
    }
}
