// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPLocalCluster
import DCPTestKit
import Foundation
import Glibc
import Testing

extension Integration {
    /// What a user reads when something is wrong: the system's reason and the remedy, in the words of the command.
    @Suite("dcpctl: messages")
    struct MessageTests {
        @Test("paths of one letter, and relative ones, are paths")
        func shortPaths() async throws {
            let directory = TemporaryDirectory()
            var shell = CommandLineTool()
            shell.executable = "/bin/sh"
            let script = #"cd "$0" && "$1" certs init --ranks 1 --directory c && "$1" certs show c"#
            let outcome = try await shell.run("-c", script, directory.path, Binaries.directory + "/dcpctl")
            #expect(outcome.status == 0, "\(outcome.messages)")
            #expect(FileManager.default.fileExists(atPath: directory.path("c/rank-0.pem")))
        }

        @Test("a socket that the user may not open is exit status 77, with the user and the remedy")
        func permission() async throws {
            try #require(access("/usr/bin/setpriv", X_OK) == 0 || access("/bin/setpriv", X_OK) == 0)
            guard geteuid() == 0 else { try Test.cancel("Only root can become another user.") }
            try await ClusterSetup(ranks: 1).run { cluster in
                for path in [cluster.directory.path, cluster.local.directory.path] { chmod(path, 0o755) }
                var tool = cluster.tool
                tool.executable = "/usr/bin/setpriv"
                try await tool.fails(
                    77, saying: ["uid 4003", "Permission denied", "allowed-uids"],
                    ["--reuid=4003", "--regid=4003", "--clear-groups", Binaries.directory + "/dcpctl", "status"])
            }
        }

        @Test(
            "no daemon: the remedy is the command that starts the cluster, quoted for a shell; an empty variable counts as unset"
        )
        func remedies() async throws {
            var tool = CommandLineTool(coordinator: "unix:/tmp/no such/coordinator.sock")
            try await tool.fails(69, saying: ["dcpctl up --dir '/tmp/no such'"], ["status"])
            tool.coordinator = ""
            if access("/run/dcp/coordinator.sock", F_OK) != 0 {
                try await tool.fails(69, saying: ["/run/dcp", "systemctl start dcp.target"], ["status"])
            }
        }

        @Test("a negative length is called that, and not an unknown option")
        func negative() async throws {
            try await CommandLineTool().fails(64, saying: ["`-1` is negative"], ["sequence", "truncate", "s", "-1"])
            for (command, word) in [
                (["up", "--dir", "/nowhere/c", "--ranks", "-1"], "-1 ranks"),
                (["submit", "f", "--prefill", "-1"], "--prefill -1 is negative"),
                (["up", "--threads", "-1"], "--threads: -1 is below"), (["top", "--sequences", "-1"], "0...1000"),
                (["sequence", "retain", "s", "--ttl", "-5"], "'-5' is invalid for '--ttl"),
            ] {
                try await CommandLineTool().fails(64, saying: [word], command)
            }
        }

        @Test("an output named -, and two clusters at once, are refused")
        func contradictions() async throws {
            let tool = CommandLineTool(coordinator: "unix:/nowhere/c")
            for (command, word) in [
                (["submit", "f", "--output", "-"], "--output -"),
                (["sequence", "export", "s", "-"], "standard output"),
                (["submit", "f", "--local", "2", "--coordinator", "unix:/c"], "--coordinator names another"),
                (["submit", "f", "--head-groups", "2"], "with --local"),
            ] {
                try await tool.fails(64, saying: [word], command)
            }
        }

        @Test("a file without a middle layer of a new model is refused; with --layers it is sent, with a warning")
        func missingLayers() async throws {
            let trace = Trace(try shape(layers: 3, 4, 2, 16, 8, .float32), tokens: 8, salt: 830)
            try await ClusterSetup(ranks: 1).run { cluster in
                let (whole, gap) = (cluster.directory.path("whole"), cluster.directory.path("gap"))
                try trace.write(layer: nil, to: whole)
                // Only the names of layer 1's tensors are changed: tensors outside the layers are left alone.
                var bytes = try Data(contentsOf: URL(filePath: whole))
                #expect(bytes.range(of: Data("layers.1.".utf8)) != nil)
                while let range = bytes.range(of: Data("layers.1.".utf8)) {
                    bytes.replaceSubrange(range, with: Data("unused.1.".utf8))
                }
                try bytes.write(to: URL(filePath: gap))
                let submit = ["submit", gap, "--sequence", "s", "--model", "m"]
                try await cluster.tool.fails(65, saying: ["lacks 1", "--layers"], submit)
                let stated = try await cluster.tool.run(submit + ["--layers", "3"])
                #expect(stated.status == 0 && stated.messages.contains("lacks layer 1 of"), "\(stated.messages)")
            }
        }
    }
}
