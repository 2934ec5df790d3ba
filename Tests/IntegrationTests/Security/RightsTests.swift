// SPDX-License-Identifier: Apache-2.0

import DCPCertificates
import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPTransport
import Foundation
import Glibc
import Testing

extension Integration {
    /// What clients may do, by certificate and by user, of real daemons.
    @Suite("rights of clients", .serialized, .timeLimit(.minutes(5)))
    struct RightsTests {
        private static let trace = repositoryFile("Tests/Fixtures/smollm2-trace.safetensors")

        private func check(
            _ outcome: CommandLineTool.Outcome, _ status: Int32, _ words: String...,
            sourceLocation: SourceLocation = #_sourceLocation
        ) {
            #expect(outcome.status == status, "\(outcome)", sourceLocation: sourceLocation)
            for word in words {
                #expect(outcome.messages.contains(word), "\(outcome)", sourceLocation: sourceLocation)
            }
        }

        @Test(
            "by certificate: readers view and export, users have their own sequences, and a refusal names the missing right"
        )
        func certificates() async throws {
            try await SecureCluster.run { secure in
                _ = try secure.certificates.add(ranks: [], clients: ["reader"], right: .read)
                _ = try secure.certificates.add(ranks: [], clients: ["user", "other"], right: .use)
                let admin = secure.tool()
                let (reader, user) = (secure.tool(as: .client("reader")), secure.tool(as: .client("user")))
                let other = secure.tool(as: .client("other"))

                // A new model is registered by who administers alone.
                check(
                    try await user.run("submit", Self.trace, "--sequence", "s"), 77, "client:user has the right to use",
                    "the right to administer", "dcpctl certs add")
                check(try await admin.run("submit", Self.trace, "--sequence", "admins"), 0)
                check(try await user.run("submit", Self.trace, "--sequence", "s"), 0)
                check(try await user.run("health"), 0)

                for command in [["status"], ["ranks"], ["sequence", "list"], ["store", "list"], ["doctor"]] {
                    check(try await reader.run(command), 0)
                }
                let file = secure.cluster.directory.path("s.safetensors")
                check(try await reader.run("sequence", "export", "s", file), 0)
                for command in [
                    ["submit", Self.trace, "--sequence", "r"], ["sequence", "close", "s"], ["health"],
                    ["sequence", "truncate", "s", "1"],
                ] { check(try await reader.run(command), 77, "client:reader has the right to read", "--rights use") }

                for command in [["sequence", "close", "s"], ["sequence", "fork", "s", "t", "9"]] {
                    check(
                        try await other.run(command), 77, "sequence `s` belongs to client:user",
                        "client:other has the right to use only its own",
                        "--rights administer")
                }
                for command in [["sequence", "pin", "s"], ["verify"], ["store", "replace", "0", "--yes"]] {
                    check(try await user.run(command), 77, "client:user has the right to use", "--rights administer")
                }
                try await secure.cluster.waitForLog(of: .coordinator, "cause: missing-right")

                check(try await user.run("sequence", "fork", "s", "t", "9"), 0)
                check(try await user.run("sequence", "close", "t"), 0)
                // Who administers may change it, and it stays its owner's.
                check(try await admin.run("sequence", "truncate", "s", "9"), 0)
                check(try await user.run("sequence", "close", "s"), 0)
                check(try await user.run("sequence", "close", "admins"), 77, "client:alice")
            }
        }

        @Test("a client that uses opens another's sequence, and does not take it over")
        func takeover() async throws {
            let trace = Trace(try shape(4, 2, 16, 16, .bfloat16), tokens: 40, salt: 4400)
            try await SecureCluster.run { secure in
                _ = try secure.certificates.add(ranks: [], clients: ["other"], right: .use)
                try await secure.withClient { client in
                    let sequence = try await client.open(trace, "s")
                    _ = try await client.step(trace, 0..<20, on: sequence)
                }
                let files = SecureCluster.files(of: .client("other"), in: secure.certificates)
                let stranger = try await Cluster.connect(
                    to: Endpoint(secure.cluster.local.coordinatorEndpoint),
                    tls: TLSCredentials(files, for: nil))
                let sequence = try await stranger.openSequence("s", model: nil)
                do throws(ServiceError) {
                    _ = try await stranger.resume(sequence)
                    Issue.record("the sequence was taken over")
                } catch {
                    #expect(error.code == .accessDenied && error.message.contains("client:alice"), "\(error)")
                }
                await stranger.close()
            }
        }

        @Test(
            "by user: the key `rights`, on every daemon",
            .enabled(
                if: geteuid() == 0 && access("/usr/bin/setpriv", X_OK) == 0,
                "becoming another user takes root and setpriv"))
        func users() async throws {
            let allowed = ["--allowed-uids", "4001,4002,4003", "--rights", "4001=use,*=read,4003=administer"]
            let setup = ClusterSetup(ranks: 2, rankArguments: allowed, coordinatorArguments: allowed)
            try await setup.run { cluster in
                for path in [cluster.directory.path, cluster.local.directory.path] { chmod(path, 0o755) }
                func run(_ user: Int, _ arguments: String...) async throws -> CommandLineTool.Outcome {
                    var tool = cluster.tool
                    tool.executable = "/usr/bin/setpriv"
                    let identity = ["--reuid=\(user)", "--regid=\(user)", "--clear-groups"]
                    return try await tool.run(identity + [Binaries.directory + "/dcpctl"] + arguments)
                }
                check(try await run(4003, "submit", Self.trace, "--sequence", "admins"), 0)
                check(try await run(4001, "submit", Self.trace, "--sequence", "s"), 0)
                check(try await run(4002, "status"), 0)
                check(
                    try await run(4002, "sequence", "close", "s"), 77, "uid:4002 has the right to read",
                    "`rights` in the dcp.yaml")
                check(try await run(4001, "sequence", "close", "admins"), 77, "belongs to uid:4003")
                check(try await run(4001, "sequence", "close", "s"), 0)
                // Root is the daemons' own user here.
                check(try await cluster.tool.run("sequence", "close", "admins"), 0)
            }
        }
    }
}
