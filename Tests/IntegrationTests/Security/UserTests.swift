// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPTransport
import Foundation
import Glibc
import Testing

extension Integration {
    /// Unix sockets: the kernel says whose process is at the other end.
    @Suite("users at Unix sockets", .serialized, .timeLimit(.minutes(5)))
    struct UserTests {
        private static let skipped = "becoming another user takes root and setpriv (util-linux)"
        private static let setpriv = "/usr/bin/setpriv"
        private static var canSwitch: Bool { geteuid() == 0 && access(setpriv, X_OK) == 0 }

        /// `dcpctl status` as somebody else.
        private func status(_ cluster: TestCluster, as identity: String...) async throws -> CommandLineTool.Outcome {
            var tool = cluster.tool
            tool.executable = Self.setpriv
            return try await tool.run(identity + [Binaries.directory + "/dcpctl", "status"])
        }

        /// Others may look for the sockets: the daemons are to refuse them, and not the directories on the way.
        private func openDirectories(_ cluster: TestCluster) {
            for path in [cluster.directory.path, cluster.local.directory.path] { chmod(path, 0o755) }
        }

        private func mode(ofPath path: String) throws -> Int {
            try #require(FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int)
        }

        private func mode(_ endpoint: String) throws -> Int {
            try mode(ofPath: String(endpoint.dropFirst("unix:".count)))
        }

        @Test(
            "a user that is not named is refused and logged; named ones, and members of named groups, are served",
            .enabled(if: canSwitch, Comment(rawValue: skipped)))
        func users() async throws {
            let trace = Trace(try shape(4, 2, 16, 16, .bfloat16), tokens: 20, salt: 4300)
            let allowed = ["--allowed-uids", "4001,4002", "--allowed-gids", "4100"]
            let setup = ClusterSetup(ranks: 2, rankArguments: allowed, coordinatorArguments: allowed)
            try await setup.run { cluster in
                openDirectories(cluster)
                for endpoint in [cluster.local.coordinatorEndpoint] + cluster.local.rankEndpoints {
                    #expect(try mode(endpoint) == 0o666)
                }
                for identity in [
                    ["--reuid=4003", "--regid=4003", "--clear-groups"],
                    ["--reuid=65534", "--regid=65534", "--groups=0,4099"],
                ] {
                    let outcome = try await status(cluster, as: identity[0], identity[1], identity[2])
                    #expect(outcome.status == 77 && outcome.messages.contains("allowed-uids"), "\(outcome)")
                }
                try await cluster.waitForRefusals(of: .coordinator, cause: "wrong-uid", 2)
                for identity in [
                    ["--reuid=4002", "--regid=4003", "--clear-groups"],
                    ["--reuid=4003", "--regid=4100", "--clear-groups"],
                    ["--reuid=4003", "--regid=4003", "--groups=4099,4100"],
                ] {
                    let outcome = try await status(cluster, as: identity[0], identity[1], identity[2])
                    #expect(outcome.status == 0, "\(identity): \(outcome.messages)")
                }
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s")
                    let answer = Answer(try await client.step(trace, 0..<20, on: sequence))
                    trace.check([answer], "after strangers")
                }
            }
        }

        @Test("unless others are named the sockets are the daemon's user's, and so are stores and state")
        func modes() async throws {
            try await ClusterSetup(ranks: 1).run { cluster in
                for endpoint in [cluster.local.coordinatorEndpoint] + cluster.local.rankEndpoints {
                    #expect(try mode(endpoint) == 0o600)
                }
                let roles: [DaemonRole] = [.coordinator, .rank(RankIndex(0))]
                for role in roles {
                    let data = cluster.local.directory.data(of: role)
                    let names = try FileManager.default.contentsOfDirectory(atPath: data)
                    for file in [data] + names.map({ "\(data)/\($0)" }) {
                        #expect(try mode(ofPath: file) & 0o077 == 0, "\(file)")
                    }
                    #expect(try cluster.log(of: role).contains("callers: uids \(geteuid())"))
                }
            }
        }
    }
}
