// SPDX-License-Identifier: Apache-2.0

import DCPTestKit
import Foundation
import Testing

extension Integration {
    /// A short run of what `make soak` runs for minutes.
    @Suite("soak")
    struct SoakTests {
        @Test("daemons killed again and again under clients: every bit as undisturbed, nothing that was committed lost")
        func short() async throws {
            var soak = CommandLineTool()
            soak.executable = "dcp-soak"
            let outcome = try await soak.run("--duration", "20s", "--seed", "\(SeededGenerator.seed)", "--json")
            #expect(outcome.status == 0, "\(outcome.data)\n\(outcome.messages)")
            let counts = try outcome.object()
            for name in ["kills", "interrupted_clients", "overruled_clients"] {
                let kinds = try #require(counts[name] as? [String: Int])
                #expect(kinds.values.reduce(0, +) > 0, "\(name): \(outcome.data)")
            }
            for name in ["answers_compared", "commits", "commits_checked", "resumes", "stored_tokens_compared"] {
                #expect((counts[name] as? Int).map { $0 > 0 } == true, "\(name): \(outcome.data)")
            }
        }

        @Test("a soak whose cluster loses acknowledged commits fails, and says which")
        func sabotage() async throws {
            var soak = CommandLineTool()
            soak.executable = "dcp-soak"
            let outcome = try await soak.run(
                "--duration", "6s", "--seed", "\(SeededGenerator.seed)", "--sabotage", "--json")
            #expect(outcome.status == 1, "\(outcome.data)")
            let failures = try #require(try outcome.object()["failures"] as? [String])
            // Which sequence, and how much of it is left: whatever notices the loss first, a client or a rank.
            let loss = #"(client-\d+-\d+|sequence #\d+).*(\d+ (of them )?committed|committedLength: \d+)"#
            #expect(failures.contains { $0.range(of: loss, options: .regularExpression) != nil }, "\(failures)")
            // What a failed run keeps for its explanation.
            let kept = FileManager.default.temporaryDirectory.appending(path: "dcp-soak-\(SeededGenerator.seed)")
            #expect(FileManager.default.fileExists(atPath: kept.path))
            try FileManager.default.removeItem(at: kept)
        }

        @Test("an unknown fail point stops a daemon with the names there are")
        func failPoint() async throws {
            for executable in ["dcp-rank", "dcp-coordinator"] {
                var daemon = CommandLineTool()
                daemon.executable = executable
                daemon.environment["DCP_FAIL_POINT"] = "commit-maybe"
                var arguments = ["--listen", "unix:/nowhere/s"]
                arguments +=
                    executable == "dcp-rank"
                    ? ["--rank", "0", "--store", "/nowhere", "--coordinator", "unix:/nowhere/c"]
                    : ["--state", "/nowhere"]
                try await daemon.fails(64, saying: ["commit-maybe", "commit-sealed", "for tests"], arguments)
            }
        }
    }
}
