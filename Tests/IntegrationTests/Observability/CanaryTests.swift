// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPTransport
import DCPWire
import Foundation
import Testing

extension Integration {
    @Suite("health by canaries")
    struct CanaryTests {
        private static let ranks = [DaemonRole.rank(RankIndex(0)), .rank(RankIndex(1))]

        private var setup: ClusterSetup {
            var setup = ClusterSetup()
            setup.coordinatorArguments = ["--canary-interval", "1"]
            setup.rankArguments = ["--canary-interval", "1"]
            return setup
        }

        @Test("healthy when a canary went through; not while a rank is dead; again when it is back")
        func health() async throws {
            try await setup.run { cluster in
                for role in Self.ranks + [.coordinator] {
                    let answer = try await cluster.get("/healthz", of: role) { $0.isHealthyByCanary }
                    let canary = try #require(try answer.json()["canary"] as? [String: Any])
                    #expect(canary["interval_seconds"] as? Double == 1)
                    #expect(try answer.json()["ok"] as? Bool == true)
                }
                try await cluster.local.kill(.rank(RankIndex(1)))
                let unready = try await cluster.get("/readyz", of: .coordinator) { $0.status == 503 }
                #expect(try #require(unready.json()["reason"] as? String).contains("rank 1"))
                let unhealthy = try await cluster.get("/healthz", of: .coordinator) { $0.status == 503 }
                #expect(try #require(unhealthy.json()["reason"] as? String).contains("no canary succeeded"))
                _ = try await cluster.get("/healthz", of: Self.ranks[0]) { $0.status == 503 }
                try cluster.local.start(.rank(RankIndex(1)))
                for role in Self.ranks + [.coordinator] {
                    _ = try await cluster.get("/healthz", of: role) { $0.isHealthyByCanary }
                }
                let log = try cluster.log(of: .coordinator)
                #expect(log.contains("A canary failed") && log.contains("Canaries succeed again"))
            }
        }

        @Test("a daemon that waits for its first canary is as healthy as it is ready")
        func first() async throws {
            var setup = ClusterSetup()
            setup.coordinatorArguments = ["--canary-interval", "3600"]
            setup.rankArguments = ["--canary-interval", "3600"]
            try await setup.run { cluster in
                for role in Self.ranks + [.coordinator] {
                    _ = try await cluster.get("/healthz", of: role) { $0.status == 200 }
                }
                try await cluster.local.kill(.rank(RankIndex(1)))
                _ = try await cluster.get("/readyz", of: .coordinator) { $0.status == 503 }
                try cluster.local.start(.rank(RankIndex(1)))
                _ = try await cluster.get("/readyz", of: .coordinator) { $0.status == 200 }
                let answer = try await cluster.get("/healthz", of: Self.ranks[1]) { $0.status == 200 }
                #expect(try #require(answer.json()["reason"] as? String).contains("no canary yet"))
            }
        }

        @Test("over TLS the coordinator sends them under its own certificate")
        func secure() async throws {
            try await SecureCluster.run(arguments: ["--canary-interval", "1"]) { secure in
                for role in Self.ranks + [.coordinator] {
                    _ = try await secure.cluster.get("/healthz", of: role) { $0.isHealthyByCanary }
                }
            }
        }

        @Test("canaries write nothing, and leave no tokens and no sequence behind but their own")
        func traces() async throws {
            try await setup.run { cluster in
                func canaries(_ count: Double) async throws {
                    _ = try await cluster.get("/metrics", of: .coordinator) {
                        $0.sample("dcp_canary_duration_seconds_count") ?? 0 >= count
                    }
                }
                try await canaries(1)
                let before = try await cluster.get("/metrics", of: Self.ranks[0])
                try await canaries(4)
                let after = try await cluster.get("/metrics", of: Self.ranks[0])
                for name in ["dcp_store_transactions_total", "dcp_store_used_bytes", "dcp_sequences"] {
                    let sample = name + #"{rank="0"}"#
                    #expect(before.sample(sample) != nil && before.sample(sample) == after.sample(sample), "\(name)")
                }
                #expect(after.sample(#"dcp_committed_tokens{rank="0"}"#) == 0)
                let decodes = #"dcp_step_duration_seconds_count{rank="0",kind="decode"}"#
                #expect(try #require(after.sample(decodes)) > before.sample(decodes) ?? 0)
                #expect(try await cluster.tool.run("sequence", "list", "--json").list().isEmpty)
                let listed = try await cluster.tool.run("sequence", "list", "--all", "--json").list()
                #expect(listed.map { $0["name"] as? String } == [".canary"])
            }
        }

        @Test("with a full store canaries go through, while new tokens are refused")
        func fullStore() async throws {
            var setup = setup
            setup.blockTokens = 64
            setup.rankArguments += ["--disk-limit", "6MiB"]
            try await setup.run { cluster in
                _ = try await cluster.get("/healthz", of: .coordinator) { $0.isHealthyByCanary }
                let trace = Trace(try shape(layers: 2, 4, 4, 64, 64, .float32), tokens: 12_000, salt: 912)
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s", model: "m")
                    // A store may have more room than it had when it refused: rows of sealed blocks are deleted later.
                    var (committed, isFull) = (0, false)
                    while !isFull {
                        let (_, refusal) = try await client.fill(trace, stride: 100, on: sequence, from: committed)
                        #expect(try #require(refusal).code == .storeFull)
                        // A commit that was refused leaves its tokens in RAM: they go, too.
                        committed = try await client.resume(sequence, atMost: 0).length
                        isFull = try await client.statuses { $0.allSatisfy { $0.room.deletingByteCount == 0 } }
                            .contains { $0.room.condition != .writable }
                    }
                }
                let full = try await cluster.get("/metrics", of: Self.ranks[0])
                let other = try await cluster.get("/metrics", of: Self.ranks[1])
                let writable = [
                    full.sample(#"dcp_store_condition{rank="0",condition="writable"}"#),
                    other.sample(#"dcp_store_condition{rank="1",condition="writable"}"#),
                ]
                #expect(writable.contains(0))
                let count = try #require(
                    try await cluster.get("/metrics", of: .coordinator).sample("dcp_canary_duration_seconds_count"))
                _ = try await cluster.get("/metrics", of: .coordinator) {
                    $0.sample("dcp_canary_duration_seconds_count") ?? 0 >= count + 2
                }
                #expect(try await cluster.get("/healthz", of: .coordinator).status == 200)
                let health = try await cluster.tool.run("health", "--json")
                #expect(health.status == 75)
                #expect(try health.object()["state"] as? String == "refusing")
                let text = try await cluster.tool.run("health").data
                #expect(text.contains("New tokens are refused") && text.contains("--disk-limit"), "\(text)")
            }
        }

        @Test("with canaries off health is readiness, and says so")
        func off() async throws {
            try await ClusterSetup().run { cluster in
                let answer = try await cluster.get("/healthz", of: .coordinator)
                #expect(answer.status == 200)
                #expect(try #require(answer.json()["reason"] as? String).contains("off"))
                #expect(try await cluster.tool.run("sequence", "list", "--json").list().isEmpty)
            }
        }
    }
}
