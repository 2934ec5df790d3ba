// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPTestKit
import Foundation
import Testing

extension Integration {
    @Suite("dcpctl top")
    struct TopTests {
        @Test("one refresh: as text, as JSON, and what is wrong with an interval")
        func once() async throws {
            try await ClusterSetup().run { cluster in
                let trace = Trace(try shape(4, 2, 16, 8, .float32), tokens: 20, salt: 920)
                let file = cluster.directory.path("a.safetensors")
                try trace.write(0..<20, to: file)
                #expect(try await cluster.tool.run("submit", file, "--sequence", "s", "--model", "m").status == 0)

                let text = try await cluster.tool.run("top", "--once", "--interval", "100ms")
                #expect(text.status == 0 && text.messages.isEmpty, "\(text.messages)")
                for word in ["Cluster ready", "TOKENS/S", "EXCHANGE", "writable", "SEQUENCE"] {
                    #expect(text.data.contains(word), "\(text.data)")
                }
                #expect(!text.data.contains("\u{1B}"))

                let json = try await cluster.tool.run("top", "--once", "--json", "--interval", "100ms")
                #expect(json.data.split(separator: "\n").count == 1)
                let view = try json.object()
                let ranks = try #require(view["ranks"] as? [[String: Any]])
                #expect(ranks.count == 2)
                for rank in ranks {
                    #expect(rank["tokens_per_second"] as? Double == 0 && rank["peers_connected"] as? Int == 1)
                }
                let sequences = try #require(view["sequences"] as? [[String: Any]])
                #expect(
                    sequences.first?["name"] as? String == "s" && sequences.first?["committed_length"] as? Int == 20)

                try await cluster.tool.fails(64, saying: ["--interval", "1ms"], ["top", "--interval", "1ms"])
                try await cluster.tool.fails(64, saying: ["--interval", "soon"], ["top", "--interval", "soon"])
            }
        }
    }
}
