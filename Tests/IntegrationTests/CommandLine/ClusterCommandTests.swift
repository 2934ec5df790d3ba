// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPTransport
import Foundation
import Glibc
import Testing

extension Integration {
    @Suite("dcpctl: up, down and the rest")
    struct ClusterCommandTests {
        /// Runs a body with a cluster that `dcpctl up --detach` started.
        private func withDetached(
            _ options: [String], _ body: (_ tool: CommandLineTool, _ directory: String) async throws -> Void
        ) async throws {
            let temporary = TemporaryDirectory()
            let directory = temporary.path("c")
            func up() async throws -> [String: Any] {
                let up = try await CommandLineTool().run(
                    ["up", "--dir", directory, "--detach", "--json", "--ranks", "2"] + options)
                #expect(up.status == 0 && up.messages.isEmpty, "\(up.messages)")
                return try up.object()
            }
            do {
                let coordinator = try #require(try await up()["coordinator"] as? String)
                try await body(CommandLineTool(coordinator: coordinator), directory)
            } catch {
                _ = try await CommandLineTool().run("down", "--dir", directory)
                throw error
            }
            let down = try await CommandLineTool().run("down", "--dir", directory, "--json")
            #expect(try down.list().count == 3, "\(down.messages)")
            let again = try await CommandLineTool().run("down", "--dir", directory, "--json")
            #expect(try again.list().isEmpty)
        }

        @Test(
            "up --detach, down, and an up that finds the sequences; on Unix sockets and TCP",
            arguments: [[], ["--tcp"]])
        func upAndDown(options: [String]) async throws {
            let trace = Trace(try shape(4, 2, 16, 8, .float32), tokens: 30, salt: 900)
            try await withDetached(options) { tool, directory in
                let endpoint = try #require(tool.coordinator)
                #expect(endpoint.hasPrefix(options.isEmpty ? "unix:\(directory)" : "tcp:127.0.0.1:"))
                let (first, rest) = (directory + "/a.safetensors", directory + "/b.safetensors")
                try trace.write(0..<20, to: first)
                try trace.write(20..<30, to: rest)
                #expect(try await tool.run("submit", first, "--sequence", "s", "--model", "m").status == 0)
                try await tool.fails(65, saying: [directory, "dcpctl down"], ["up", "--dir", directory, "--detach"])
                #expect(try await tool.run("down", "--dir", directory).status == 0)
                try await tool.fails(69, saying: [endpoint], ["status"])
                try await tool.fails(
                    65, saying: ["--ranks 2, not 3"], ["up", "--dir", directory, "--detach", "--ranks", "3"])

                let second = try await tool.run("up", "--dir", directory, "--detach")
                #expect(second.status == 0, "\(second.messages)")
                #expect(second.data.contains("export DCP_COORDINATOR=\(endpoint)\n"), "\(second.data)")
                let listed = try await tool.run("sequence", "list", "--json").list()
                #expect(listed.first?["name"] as? String == "s" && listed.first?["committed_length"] as? Int == 20)
                let output = directory + "/o.safetensors"
                let outcome = try await tool.run("submit", rest, "--sequence", "s", "--model", "m", "--output", output)
                #expect(outcome.status == 0, "\(outcome.messages)")
                trace.check(try Answer(file: output), 20..<30, "after down and up")
            }
        }

        @Test("up: what is said of disks reaches every daemon, and holds for the next up; the daemons check it")
        func disks() async throws {
            let options = ["--disk-limit", "8MiB", "--high-watermark", "80", "--low-watermark", "60", "--evict", "lru"]
            try await withDetached(options + ["--durability", "always"]) { tool, directory in
                func check(_ durability: String) async throws {
                    let ranks = try await tool.run("ranks", "--json").list()
                    #expect(ranks.count == 2)
                    for rank in ranks {
                        let counters = try #require(rank["counters"] as? [String: Any])
                        let high = try #require(counters["high_watermark_bytes"] as? Int)
                        let low = try #require(counters["low_watermark_bytes"] as? Int)
                        #expect(high < 8 << 20 && low < high && counters["durability"] as? String == durability)
                    }
                }
                try await check("always")
                #expect(try await tool.run("down", "--dir", directory).status == 0)
                let up = ["up", "--dir", directory, "--detach"]
                #expect(try await tool.run(up).status == 0)
                try await check("always")
                #expect(try await tool.run("down", "--dir", directory).status == 0)
                try await tool.fails(64, saying: ["disk-limit", "3x"], up + ["--disk-limit", "3x"])
                #expect(try await tool.run(up).status == 0)
                try await check("always")
                #expect(try await tool.run("down", "--dir", directory).status == 0)
                #expect(try await tool.run(up + ["--disk-limit", "9MiB", "--durability", "never"]).status == 0)
                try await check("never")
            }
        }

        @Test("a first up that the daemons refuse leaves nothing that binds the next one")
        func refused() async throws {
            let temporary = TemporaryDirectory()
            let up = ["up", "--dir", temporary.path("c"), "--detach", "--ranks"]
            try await CommandLineTool().fails(64, saying: ["disk-limit", "3x"], up + ["2", "--disk-limit", "3x"])
            let second = try await CommandLineTool().run(up + ["3"])
            #expect(second.status == 0, "\(second.messages)")
            #expect(try await CommandLineTool().run("down", "--dir", temporary.path("c")).status == 0)
        }

        @Test("two ups at once restart a killed rank once, and leave every daemon known and its HTTP endpoint there")
        func restartedOnce() async throws {
            try await withDetached([]) { tool, directory in
                let local = try #require(try LocalCluster.find(in: LocalClusterDirectory(path: directory)))
                try await local.killRank(1)
                let up = ["up", "--dir", directory, "--detach"]
                async let other = tool.run(up)
                let outcomes = [try await tool.run(up), try await other]
                let failed = outcomes.filter { $0.status != 0 }
                #expect(failed.count == 1 && failed.first?.status == 65, "\(outcomes)")
                let found = try #require(try LocalCluster.find(in: LocalClusterDirectory(path: directory)))
                #expect(found.running.count == 3)
                #expect(try await tool.run("health", "--wait", "1m").status == 0)
                for daemon in ["coordinator", "rank-0", "rank-1"] {
                    #expect(FileManager.default.fileExists(atPath: "\(directory)/\(daemon).http"))
                }
            }
        }

        @Test("an interrupted start says so, ends with 130 and leaves no daemon", arguments: [SIGINT, SIGTERM])
        func interruptedStart(number: Int32) async throws {
            let temporary = TemporaryDirectory()
            let directory = temporary.path("c")
            let events = try EventPipe(temporary.path("events"))
            var shell = CommandLineTool()
            shell.executable = "/bin/sh"
            // Written by another process: a file that this one has open for writing cannot be executed.
            let write =
                #"cd "$0" && printf '#!/bin/sh\necho > "$1"\nexec cat\n' > dcp-rank && chmod +x dcp-rank"#
                + " && cp dcp-rank dcp-coordinator"
            try await shell.run("-c", write.replacing("\"$1\"", with: events.path), temporary.path)
            let messages = try await onOwnThread {
                let process = Process()
                process.executableURL = URL(filePath: Binaries.directory + "/dcpctl")
                process.arguments = ["up", "--dir", directory, "--ranks", "1"]
                process.environment = ProcessInfo.processInfo.environment
                process.environment?["DCP_BIN_DIR"] = temporary.path
                let errors = Pipe()
                process.standardInput = FileHandle.nullDevice
                process.standardOutput = FileHandle.nullDevice
                process.standardError = errors
                try process.run()
                for _ in 0..<2 { _ = events.next() }
                kill(process.processIdentifier, number)
                let text = String(decoding: try errors.fileHandleForReading.readToEnd() ?? Data(), as: UTF8.self)
                process.waitUntilExit()
                #expect(process.terminationReason == .exit && process.terminationStatus == 130)
                return text
            }
            #expect(messages == "dcpctl: interrupted\n")
            #expect(try LocalCluster.find(in: LocalClusterDirectory(path: directory)) == nil)
        }

        @Test("up in the foreground ends with 0 when down stops it, and takes its directory from the environment")
        func foreground() async throws {
            let temporary = TemporaryDirectory()
            var tool = CommandLineTool()
            tool.environment["XDG_STATE_HOME"] = temporary.path
            let environment = tool
            async let up = environment.run("up", "--ranks", "2")
            let endpoint = "unix:" + temporary.path("dcp/coordinator.sock")
            let cluster = try await Cluster.connectWhenReady(to: Endpoint(endpoint), wait: .seconds(60))
            await cluster.close()
            let down = try await tool.run("down")
            #expect(down.status == 0 && down.data.contains("rank 1: "), "\(down.data) \(down.messages)")
            let outcome = try await up
            #expect(outcome.status == 0, "\(outcome.messages)")
            #expect(outcome.data.isEmpty || outcome.data.contains(endpoint))
        }

        @Test("every command prints JSON that parses and text that reads, on standard output alone")
        func output() async throws {
            let trace = Trace(try shape(4, 2, 16, 8, .float32), tokens: 30, salt: 901)
            try await ClusterSetup(ranks: 2).run { cluster in
                let file = cluster.directory.path("f.safetensors")
                try trace.write(to: file)
                for format in [[], ["--json"]] {
                    let name = format.isEmpty ? "text" : "json"
                    for command in [
                        ["submit", file, "--sequence", name, "--model", name], ["status"], ["ranks"], ["health"],
                        ["model", "list"], ["model", "show", name], ["sequence", "list"], ["sequence", "show", name],
                        ["sequence", "fork", name, "fork-\(name)", "17"], ["sequence", "truncate", name, "9"],
                        ["sequence", "close", name], ["sequence", "close", "fork-\(name)"], ["model", "remove", name],
                    ] {
                        let outcome = try await cluster.tool.run(command + format)
                        #expect(outcome.status == 0 && outcome.messages.isEmpty, "\(command): \(outcome.messages)")
                        #expect(!outcome.data.isEmpty)
                        if !format.isEmpty { #expect(throws: Never.self) { try outcome.json() } }
                    }
                }
                let status = try await cluster.tool.run("status", "--json").object()
                #expect(status["phase"] as? String == "ready" && (status["ranks"] as? [Any])?.count == 2)
            }
        }

        @Test("names and lengths that are not there: 65 with what there is")
        func unknown() async throws {
            let trace = Trace(try shape(4, 2, 16, 8, .float32), tokens: 30, salt: 902)
            try await ClusterSetup(ranks: 2).run { cluster in
                let file = cluster.directory.path("f.safetensors")
                try trace.write(to: file)
                let tool = cluster.tool
                #expect(try await tool.run("submit", file, "--sequence", "s", "--model", "m").status == 0)
                for (arguments, words) in [
                    (["model", "show", "x"], ["`x`", "model list"]), (["model", "remove", "x"], ["`x`"]),
                    (["model", "remove", "m"], ["1 sequences", "`s`"]), (["sequence", "show", "x"], ["`x`"]),
                    (["sequence", "close", "x"], ["`x`"]), (["sequence", "truncate", "s", "31"], ["30", "31"]),
                    (["sequence", "fork", "s", "t", "31"], ["30", "31"]),
                    (["sequence", "fork", "x", "t", "1"], ["`x`"]),
                    (["sequence", "fork", "s", "s", "1"], ["`s`"]),
                    (["submit", file, "--sequence", "", "--model", "m"], ["0 bytes"]),
                    (
                        ["submit", file, "--sequence", String(repeating: "n", count: 256), "--model", "m"],
                        ["256", "255"]
                    ),
                ] {
                    try await tool.fails(65, saying: words, arguments)
                }
                #expect(try await tool.run("sequence", "list", "--json").list().count == 1)
            }
        }
    }
}
