// SPDX-License-Identifier: Apache-2.0

import DCPTestKit
import Foundation
import Testing

extension Integration {
    /// What needs no cluster: help, usage and exit status.
    @Suite("dcpctl: manual and usage")
    struct ManualTests {
        static let commands = [
            [], ["up"], ["down"], ["submit"], ["status"], ["top"], ["ranks"], ["health"], ["model"], ["model", "list"],
            ["model", "add"], ["model", "show"], ["model", "remove"], ["sequence"], ["sequence", "list"],
            ["sequence", "show"], ["sequence", "match"], ["sequence", "truncate"], ["sequence", "fork"],
            ["sequence", "close"], ["sequence", "export"], ["sequence", "import"], ["sequence", "pin"],
            ["sequence", "unpin"], ["sequence", "retain"], ["verify"], ["store"], ["store", "list"],
            ["store", "replace"], ["store", "accept-older"], ["backup"], ["restore"], ["doctor"], ["kernels"],
            ["certs"], ["certs", "init"], ["certs", "add"], ["certs", "renew"], ["certs", "show"],
        ]

        private struct Described: Decodable {
            var commandName: String
            var subcommands: [Described]?

            func commands(after path: [String]) -> [[String]] {
                [path]
                    + (subcommands ?? []).filter { $0.commandName != "help" }
                    .flatMap { $0.commands(after: path + [$0.commandName]) }
            }
        }

        private struct Dump: Decodable {
            var command: Described
        }

        @Test("these tests know every command")
        func allCommands() async throws {
            let outcome = try await CommandLineTool().run("--experimental-dump-help")
            let dump = try JSONDecoder().decode(Dump.self, from: Data(outcome.data.utf8))
            #expect(Set(dump.command.commands(after: [])) == Set(Self.commands))
        }

        @Test("every command has help with an example of itself", arguments: commands)
        func help(command: [String]) async throws {
            let outcome = try await CommandLineTool().run(command + ["--help"])
            #expect(outcome.status == 0 && outcome.messages.isEmpty)
            #expect(outcome.data.contains("EXAMPLE\n"))
            #expect(outcome.data.contains((["dcpctl"] + command).joined(separator: " ")))
            #expect(outcome.data.contains("OVERVIEW: "))
        }

        @Test("daemons have help with an example", arguments: ["dcp-rank", "dcp-coordinator"])
        func daemonHelp(name: String) async throws {
            let outcome = try await CommandLineTool(executable: name).run("--help")
            #expect(outcome.status == 0 && outcome.data.contains("EXAMPLE\n  \(name) "))
        }

        @Test(
            "a wrong command line ends with 64 and says what is wrong",
            arguments: [
                (["bogus"], "bogus"), (["up", "--bogus"], "--bogus"), (["submit"], "file"),
                (["submit", "f", "--kv-format", "int4"], "int8 or fp8"), (["submit", "f", "--query", "all"], "all"),
                (["submit", "f", "--exchange", "ring"], "ring"), (["submit", "f", "--tolerance=-1"], "-1"),
                (["submit", "f", "--layer", "x"], "x"), (["submit", "f", "--retry-for", "soon"], "soon"),
                (["submit", "f", "--position=-4"], "-4"), (["submit", "f", "--window=-1"], "-1"),
                (["submit", "f", "--sinks", "s"], "--model-file"), (["model", "add", "m"], "--config"),
                (["model", "add", "m", "--config", "c", "--model-file", "f"], "one of"),
                (["model", "add", "m", "--config", "c", "--kv-format", "int4"], "int8 or fp8"),
                (["sequence", "truncate", "s", "--", "-1"], "-1"), (["sequence", "fork", "s"], "new"),
                (["verify", "--store", "s", "--repair", "--yes"], "all ranks"), (["verify", "--yes"], "--repair"),
                (["verify", "--repair"], "--yes"),
                (["sequence", "export", "s"], "file"), (["sequence", "export", "s", "f", "--as", "int8"], "int8"),
                (["status", "--timeout", "soon"], "soon"),
                (["status", "--coordinator", "here"], "here"),
                (["certs", "init", "--directory", "d", "--ranks", "0"], "0 ranks"),
                (["certs", "init", "--directory", "d", "--ranks", "2", "--days", "0"], "0 days"),
                (["certs", "add", "--directory", "d"], "--client"),
                (["certs", "add", "--directory", "d", "--rank", "1024"], "1024"),
            ])
        func usage(arguments: [String], word: String) async throws {
            try await CommandLineTool(coordinator: "unix:/nonexistent/c.sock").fails(64, saying: [word], arguments)
        }

        @Test(
            "shapes that are no cluster end with 64, naming the values",
            arguments: [
                (["--block-tokens", "16", "--interleave", "3"], ["16", "interleave 3"]),
                (["--block-tokens", "20"], ["20", "multiple of 16"]),
                (["--head-groups", "3"], ["4 ranks", "3 head groups"]),
                (["--ranks", "0"], ["0 ranks"]),
            ])
        func shape(options: [String], words: [String]) async throws {
            let directory = TemporaryDirectory()
            try await CommandLineTool().fails(
                64, saying: words, ["up", "--detach", "--dir", directory.path("c")] + options)
        }

        @Test("no daemon at the endpoint: 69, with the endpoint and the remedy")
        func nobody() async throws {
            let directory = TemporaryDirectory()
            let endpoint = "unix:" + directory.path("c.sock")
            for arguments in [["status"], ["ranks"], ["health"], ["model", "list"], ["sequence", "list"], ["verify"]] {
                try await CommandLineTool(coordinator: endpoint).fails(
                    69, saying: [endpoint, "dcpctl up", "--coordinator"], arguments)
                try await CommandLineTool(coordinator: "unix:/nonexistent").fails(
                    69, saying: [endpoint], arguments + ["--coordinator", endpoint])
            }
        }
    }
}
