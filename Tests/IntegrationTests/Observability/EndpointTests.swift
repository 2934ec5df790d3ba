// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPLocalCluster
import DCPObservability
import DCPTestKit
import DCPTransport
import Foundation
import Glibc
import Testing

extension Integration {
    @Suite("the HTTP endpoint")
    struct EndpointTests {
        private static let rank = DaemonRole.rank(RankIndex(0))

        @Test("metrics follow what happens; what is none of the three paths, or no GET, is refused")
        func metrics() async throws {
            try await ClusterSetup().run { cluster in
                let before = try await cluster.get("/metrics", of: Self.rank)
                #expect(before.status == 200 && before.headers.contains("text/plain; version=0.0.4"))
                #expect(before.sample(#"dcp_serving{rank="0"}"#) == 1)
                #expect(before.sample(#"dcp_step_tokens_total{rank="0"}"#) == 0)
                #expect(before.sample(#"dcp_peers_connected{rank="0"}"#) == 1)

                let trace = Trace(try shape(4, 2, 16, 8, .float32), tokens: 30, salt: 910)
                let file = cluster.directory.path("a.safetensors")
                try trace.write(0..<30, to: file)
                let outcome = try await cluster.tool.run(
                    "submit", file, "--sequence", "s", "--model", "m", "--chunk", "10")
                #expect(outcome.status == 0, "\(outcome.messages)")

                let after = try await cluster.get("/metrics", of: Self.rank)
                #expect(after.sample(#"dcp_step_tokens_total{rank="0"}"#) == 30)
                #expect(after.sample(#"dcp_committed_tokens{rank="0"}"#) == 15)
                #expect(after.sample(#"dcp_sequences{rank="0"}"#) == 1)
                let steps = try #require(after.sample(#"dcp_step_duration_seconds_count{rank="0",kind="prefill"}"#))
                #expect(steps >= 3)
                #expect(after.sample(#"dcp_step_duration_seconds_bucket{rank="0",kind="prefill",le="+Inf"}"#) == steps)
                #expect(try #require(after.sample(#"dcp_commit_duration_seconds_count{rank="0"}"#)) >= 1)
                #expect(after.sample(#"dcp_store_condition{rank="0",condition="writable"}"#) == 1)

                let coordinator = try await cluster.get("/metrics", of: .coordinator)
                #expect(coordinator.sample("dcp_cluster_ready") == 1)
                #expect(coordinator.sample("dcp_directory_sequences") == 1)
                #expect(coordinator.sample(#"dcp_rank_registered{peer="1"}"#) == 1)

                #expect(try await cluster.get("/metrics/x", of: Self.rank).status == 404)
                let posted = try await cluster.get("/metrics", of: Self.rank, method: "POST")
                #expect(posted.status == 405 && posted.headers.contains("allow: get, head"))
                let head = try await cluster.get("/metrics", of: Self.rank, method: "HEAD")
                #expect(head.status == 200 && head.body.isEmpty)
            }
        }

        @Test("a daemon that serves describes every metric that the table says it has, and no other")
        func described() async throws {
            try await ClusterSetup().run { cluster in
                for (daemon, kind) in [(Self.rank, Metric.Daemon.rank), (.coordinator, .coordinator)] {
                    let lines = try await cluster.get("/metrics", of: daemon).body.split(separator: "\n")
                    let described = lines.filter { $0.hasPrefix("# TYPE ") }.map { $0.dropFirst("# TYPE ".count) }
                    // The cluster has no TLS.
                    let metrics = Metric.all.filter { $0.daemons.contains(kind) && $0 != .certificateEnd }
                    #expect(described.sorted() == metrics.map { "\($0.name) \($0.kind.rawValue)"[...] }.sorted())
                }
            }
        }

        @Test("headers without end are refused, and connections that say nothing do not keep others out")
        func bounds() async throws {
            try await ClusterSetup().run { cluster in
                let path = String(cluster.local.directory.http(of: Self.rank).dropFirst("unix:".count))
                let silent = try (0..<8).map { _ in try HTTP.connected(to: path) }
                defer { for descriptor in silent { close(descriptor) } }
                let long = "GET /metrics HTTP/1.1\r\nHost: dcp\r\nX: \(String(repeating: "x", count: 1 << 16))\r\n\r\n"
                let refused = try await onOwnThread { try HTTP.send(long, to: path) }
                #expect((400..<500).contains(refused.status))
                #expect(try await cluster.get("/readyz", of: Self.rank).status == 200)
            }
        }

        @Test("a daemon that is started twice does not take the endpoint of the first")
        func twice() async throws {
            try await ClusterSetup().run { cluster in
                let directory = cluster.local.directory
                var tool = CommandLineTool()
                tool.executable = "dcp-rank"
                try await tool.fails(
                    69, saying: ["HTTP endpoint", "--http", directory.http(of: Self.rank)],
                    [
                        "--rank", "0", "--config", "/dev/null", "--store", cluster.directory.path("other"), "--listen",
                        "unix:" + cluster.directory.path("o.sock"), "--coordinator", cluster.local.coordinatorEndpoint,
                        "--http", directory.http(of: Self.rank),
                    ])
                #expect(try await cluster.get("/readyz", of: Self.rank).status == 200)
            }
        }

        @Test("an address that others reach is refused unless it was asked for by name")
        func addresses() async throws {
            var tool = CommandLineTool()
            tool.executable = "dcp-rank"
            let arguments = ["--rank", "0", "--config", "/dev/null", "--check-config", "--http"]
            try await tool.fails(
                64, saying: ["0.0.0.0:9470", "loopback", "--insecure-http-any-address"], arguments + ["0.0.0.0:9470"])
            try await tool.fails(64, saying: ["localhost:1", "127.0.0.1:9470"], arguments + ["localhost:1"])
            let allowed = try await tool.run(arguments + ["0.0.0.0:9470", "--insecure-http-any-address"])
            #expect(allowed.status == 0, "\(allowed.messages)")
        }

        @Test("--check-config leaves open what the credentials of the unit decide, and says what they are for")
        func credentials() async throws {
            for (executable, rest) in [("dcp-rank", ["--rank", "0"]), ("dcp-coordinator", [])] {
                var tool = CommandLineTool()
                tool.executable = executable
                let arguments = rest + ["--config", "/dev/null", "--listen", "tcp:10.0.0.1:7400"]
                let open = try await tool.run(arguments + ["--check-config"])
                #expect(open.status == 0)
                for word in ["listen: tcp:10.0.0.1:7400", "credentials", "tls-ca"] {
                    #expect(open.messages.contains(word), "\(open.messages)")
                }
                // Run, and not looked at, it is refused.
                let state = ["--\(rest.isEmpty ? "state" : "store")", "/nowhere"]
                try await tool.fails(64, saying: ["tcp:10.0.0.1:7400"], arguments + state)
            }
        }

        @Test("scraped all the while, steps give the same bits")
        func undisturbed() async throws {
            try await ClusterSetup().run { cluster in
                let trace = Trace(try shape(4, 2, 16, 8, .float32), tokens: 60, salt: 911)
                let file = cluster.directory.path("a.safetensors")
                try trace.write(0..<60, to: file)
                func answer(_ sequence: String) async throws -> Answer {
                    let output = cluster.directory.path("\(sequence).safetensors")
                    let outcome = try await cluster.tool.run(
                        "submit", file, "--sequence", sequence, "--model", "m", "--chunk", "20", "--output", output)
                    try #require(outcome.status == 0, "\(outcome.messages)")
                    return try Answer(file: output)
                }
                let alone = try await answer("alone")
                let scraper = Task { () async throws -> Int in
                    var scrapes = 0
                    while !Task.isCancelled {
                        for role in [DaemonRole.coordinator, Self.rank, .rank(RankIndex(1))] {
                            let answer = try await cluster.get("/metrics", of: role)
                            #expect(answer.status == 200)
                        }
                        scrapes += 1
                    }
                    return scrapes
                }
                let scraped = try await answer("scraped")
                scraper.cancel()
                let scrapes = try await scraper.value
                #expect(scrapes > 0)
                #expect(alone.outputs == scraped.outputs && alone.lse == scraped.lse)
            }
        }
    }
}
