// SPDX-License-Identifier: Apache-2.0

import DCPTestKit
import Foundation
import Testing

extension Integration {
    @Suite("dcpctl certs")
    struct CertificateTests {
        private func mode(_ path: String) throws -> Int {
            try #require(try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int)
        }

        @Test("init, show, add and renew, as text and as JSON")
        func commands() async throws {
            let temporary = TemporaryDirectory()
            let directory = temporary.path("c")
            let tool = CommandLineTool()
            let made = try await tool.run(
                "certs", "init", "--directory", directory, "--ranks", "2", "--client", "alice", "--days", "30", "--json"
            )
            #expect(made.status == 0 && made.messages.isEmpty, "\(made.messages)")
            let list = try made.list()
            #expect(list.count == 5)
            #expect(list.first?["is_authority"] as? Bool == true)
            #expect(list.last?["roles"] as? [String] == ["dcp:rank:1"])
            #expect(list.last?["issuer"] as? String == list.first?["subject"] as? String)
            #expect(list.last?["key_mode"] as? String == "0600")

            let shown = try await tool.run("certs", "show", directory, "--json")
            #expect(shown.data == made.data)
            let one = try await tool.run("certs", "show", directory + "/client-alice.pem")
            let serial = try #require(
                list.first { ($0["roles"] as? [String]) == ["dcp:client:alice"] }?["serial"] as? String)
            #expect(one.data.contains(serial) && one.data.contains("dcp:client:alice"), "\(one.data)")

            try await tool.fails(
                65, saying: [directory, "certs renew"], ["certs", "init", "--directory", directory, "--ranks", "2"])
            try await tool.fails(
                65, saying: ["client-alice", "overwritten"],
                ["certs", "add", "--directory", directory, "--client", "alice"])
            let added = try await tool.run("certs", "add", "--directory", directory, "--client", "bob", "--rank", "2")
            #expect(added.status == 0 && added.data.contains("dcp:rank:2"), "\(added.messages)")

            let renewed = try await tool.run("certs", "renew", "--directory", directory, "--json")
            #expect(renewed.status == 0, "\(renewed.messages)")
            let new = try #require(try renewed.list().first { ($0["roles"] as? [String]) == ["dcp:client:alice"] })
            #expect(new["serial"] as? String != serial)
            try await tool.fails(
                65, saying: ["ca-key.pem"], ["certs", "renew", "--directory", temporary.path])
            try await tool.fails(65, saying: [temporary.path("none")], ["certs", "show", temporary.path("none")])
        }

        @Test("modes do not depend on the creation mask", arguments: ["000", "077"])
        func mask(_ mask: String) async throws {
            let temporary = TemporaryDirectory()
            let directory = temporary.path("c")
            let script =
                "umask \(mask); exec \(Binaries.directory)/dcpctl certs init --directory \(directory) --ranks 1"
            let process = Process()
            process.executableURL = URL(filePath: "/bin/sh")
            process.arguments = ["-c", script]
            process.standardOutput = FileHandle.nullDevice
            try await onOwnThread { [process] in
                try process.run()
                process.waitUntilExit()
            }
            #expect(process.terminationStatus == 0)
            #expect(try mode(directory) == 0o755)
            for name in ["ca", "coordinator", "rank-0"] {
                #expect(try mode("\(directory)/\(name).pem") == 0o644)
                #expect(try mode("\(directory)/\(name)-key.pem") == 0o600)
            }
        }
    }
}
