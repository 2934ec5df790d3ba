// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPTransport
import Foundation
import Testing

extension Integration {
    @Suite("the README")
    struct ReadmeTests {
        @Test("its Swift example is a source that compiles with one import, and the cluster answers it exactly")
        func example() async throws {
            let root = URL(filePath: #filePath).appending(path: "../../../..").standardized
            let readme = try String(contentsOf: root.appending(path: "README.md"), encoding: .utf8)
            let source = try String(
                contentsOf: URL(filePath: #filePath).deletingLastPathComponent().appending(path: "ReadmeExample.swift"),
                encoding: .utf8)
            let example = try #require(source.range(of: "import DCPClient"))
            #expect(
                readme.contains("```swift\n\(source[example.lowerBound...])```\n"),
                "copy ReadmeExample.swift into the README")

            let trace = Trace(try shape(layers: 2, 32, 8, 128, 128, .bfloat16), tokens: 512, salt: 1_807)
            try await ClusterSetup(ranks: 2).run { cluster in
                let rows = (0..<2).map { trace.rows($0, 0..<512) }
                let answers = try await prefill(
                    rows.map { ($0.queries, $0.keys, $0.values!) }, at: cluster.local.coordinatorEndpoint)
                trace.check(
                    answers.map { output in
                        var answer = Answer()
                        answer.append(output)
                        return answer
                    }, "the README's example")
                try await cluster.withClient { client in
                    let chat = try #require(try await client.sequences(prefix: "chat-1").first)
                    #expect(try await client.status(of: chat).committedLength == 512)
                }
            }
        }
    }
}
