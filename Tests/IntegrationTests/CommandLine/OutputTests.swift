// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPTransfer
import Foundation
import Glibc
import Testing

extension Integration {
    /// What a submission makes of the place of its output, and of a coordinator that goes away.
    @Suite("dcpctl: output")
    struct OutputTests {
        @Test("an output that cannot be written is refused before anything is sent; no sequence, no file")
        func noPlace() async throws {
            let trace = Trace(try shape(4, 2, 16, 8, .float32), tokens: 8, salt: 810)
            try await ClusterSetup(ranks: 1).run { cluster in
                let file = cluster.directory.path("in.safetensors")
                try trace.write(to: file)
                for (place, word) in [
                    (cluster.directory.path, "is a directory"), (cluster.directory.path("no/o"), "No such file"),
                    ("/dev/full", "not a regular file"),
                ] {
                    try await cluster.tool.fails(65, saying: [place, word], ["submit", file, "--output", place])
                }
                #expect(try await cluster.tool.run("sequence", "list", "--json").list().isEmpty)
            }
        }

        @Test("a disk without room for the output is named with its free space, before anything is sent")
        func noRoom() async throws {
            let disk = TemporaryDirectory()
            guard geteuid() == 0, mount("tmpfs", disk.path, "tmpfs", 0, "size=64k") == 0 else {
                try Test.cancel("A small disk can be mounted by root only.")
            }
            defer { umount2(disk.path, Int32(MNT_DETACH)) }
            let trace = Trace(try shape(8, 2, 64, 64, .float32), tokens: 200, salt: 811)
            try await ClusterSetup(ranks: 1).run { cluster in
                let file = cluster.directory.path("in.safetensors")
                try trace.write(to: file)
                let submit = ["submit", file, "--sequence", "s", "--output"]
                try await cluster.tool.fails(
                    65, saying: ["No space left on device", disk.path, "65536 free"], submit + [disk.path("o")])
                #expect(try FileManager.default.contentsOfDirectory(atPath: disk.path).isEmpty)
                #expect(try await cluster.tool.run("sequence", "list", "--json").list().isEmpty)
                let elsewhere = try await cluster.tool.run(submit + [cluster.directory.path("o")])
                #expect(elsewhere.status == 0, "\(elsewhere.messages)")
            }
        }

        @Test("a coordinator that is gone when all is committed and written: success, without what each rank holds")
        func coordinatorGone() async throws {
            let trace = Trace(try shape(4, 2, 16, 8, .float32), tokens: 40, salt: 812)
            try await ClusterSetup(ranks: 2).run { cluster in
                let file = cluster.directory.path("in.safetensors")
                let output = cluster.directory.path("o.safetensors")
                try trace.write(to: file)
                let submission = try Submission(file, options: SubmitOptions(), output: output)
                try await cluster.withClient { client in
                    // Answers come on after the coordinator's death: it is off the path of steps and commits.
                    let killed = KillOnce(cluster)
                    let report = try await submission.run(on: client) { _ in killed.kill() }
                    #expect(report.ranks.isEmpty && report.ranksFailure != nil)
                    #expect(report.committedLength == 40)
                }
                trace.check(try Answer(file: output), 0..<40, "the output file")
                try cluster.local.start(.coordinator)
                try await cluster.waitUntilReady()
                let show = try await cluster.tool.run("sequence", "show", "in", "--json").object()
                #expect(show["committed_length"] as? Int == 40)
            }
        }

        @Test("standard output that is full or closed is an error; a reader that has gone ends a command quietly")
        func standardOutput() async throws {
            try await ClusterSetup(ranks: 1).run { cluster in
                var shell = cluster.tool
                shell.executable = "/bin/sh"
                let dcpctl = Binaries.directory + "/dcpctl"
                for (place, reason) in [("> /dev/full", "No space left"), (">&-", "Bad file descriptor")] {
                    for command in ["status", "status --json", "top --once --interval 100ms", "--version"] {
                        try await shell.fails(65, saying: [reason], ["-c", "\"$0\" \(command) \(place)", dcpctl])
                    }
                }
                for format in ["", "--json"] {
                    // The shell's own last line is the status of what `head` has left.
                    let script = "{ \"$0\" top --interval 100ms \(format); echo $? >&2; } | head -1"
                    let outcome = try await shell.run("-c", script, dcpctl)
                    #expect(outcome.messages == "141\n" && !outcome.data.isEmpty, "\(outcome.messages)")
                }
            }
        }

        @Test("names are bytes: two that Unicode calls equal are two; an argument that is not UTF-8 is refused")
        func names() async throws {
            let trace = Trace(try shape(4, 2, 16, 8, .float32), tokens: 8, salt: 813)
            try await ClusterSetup(ranks: 1).run { cluster in
                let file = cluster.directory.path("in.safetensors")
                try trace.write(to: file)
                let names = ["caf\u{e9}", "cafe\u{301}"]
                for name in names {
                    let outcome = try await cluster.tool.run("submit", file, "--sequence", name, "--model", name)
                    #expect(outcome.status == 0, "\(outcome.messages)")
                }
                let listed = try await cluster.tool.run("sequence", "list", "--json").list()
                let found = listed.compactMap { $0["name"] as? String }
                #expect(found.map { Array($0.utf8) } == names.map { Array($0.utf8) })
                for name in names {
                    let show = try await cluster.tool.run("sequence", "show", name, "--json").object()
                    #expect(show["committed_length"] as? Int == 8)
                }
                #expect(try await cluster.tool.run("model", "list", "--json").list().count >= 2)
                // Only a shell passes such bytes; Process would make text of them.
                var shell = cluster.tool
                shell.executable = "/bin/sh"
                let script = #"exec "$0" sequence show "$(printf '\377\376')""#
                let arguments = ["-c", script, Binaries.directory + "/dcpctl"]
                try await shell.fails(64, saying: ["Argument 3", "not UTF-8"], arguments)
            }
        }
    }
}

/// Kills the coordinator at the first call.
private final class KillOnce: Sendable {
    private let daemon: DaemonProcess?

    init(_ cluster: TestCluster) { daemon = cluster.local.daemon(.coordinator) }

    func kill() { daemon?.kill() }
}
