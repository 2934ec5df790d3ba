// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPWire
import Foundation
import Testing

extension Integration {
    /// Daemons that must not serve what they were given, and say why.
    @Suite("stores and roles")
    struct StoreTests {
        /// A daemon started by hand; it ends by itself, or with the object.
        private func daemon(
            _ name: String, _ arguments: [String], in directory: TemporaryDirectory
        ) async throws -> (exit: ProcessExit?, log: String) {
            let log = directory.path("\(name)-\(UUID().uuidString.prefix(8)).log")
            return try await onOwnThread {
                let process = try DaemonProcess.spawn(
                    name: name, executable: "\(Binaries.directory)/\(name)",
                    arguments: arguments + ["--http", "off"], environment: [:],
                    logPath: log, lifeline: true)
                // Ends in a moment; the deadline is for a daemon that wrongly serves.
                let exit = process.waitForExit(until: .now + .seconds(60))
                if exit == nil { _ = process.kill() }
                return (exit, try String(contentsOfFile: log, encoding: .utf8))
            }
        }

        private func rank(_ rank: Int, store: String, _ cluster: TestCluster) async throws
            -> (exit: ProcessExit?, log: String)
        {
            try await daemon(
                "dcp-rank",
                [
                    "--rank", "\(rank)", "--store", store, "--coordinator", cluster.local.coordinatorEndpoint,
                    "--listen", "unix:\(cluster.directory.path("other.sock"))",
                ], in: cluster.directory)
        }

        @Test("another rank's store, and one in use, are refused with 78 and both values; the cluster serves on")
        func storeOfAnotherRank() async throws {
            try await ClusterSetup(ranks: 2).run { cluster in
                let store = cluster.local.directory.data(of: .rank(RankIndex(0)))
                let inUse = try await rank(0, store: store, cluster)
                #expect(inUse.exit == .status(78), "\(inUse.log)")
                #expect(inUse.log.contains(store), "\(inUse.log)")
                // A copy of rank 1's store, which no process has open.
                let copy = cluster.directory.path("copy")
                await cluster.local.stop(deadline: .seconds(60))
                try FileManager.default.copyItem(
                    atPath: cluster.local.directory.data(of: .rank(RankIndex(1))), toPath: copy)
                for role in cluster.local.roles { try cluster.local.start(role) }
                try await cluster.waitUntilReady()
                let other = try await rank(0, store: copy, cluster)
                #expect(other.exit == .status(78), "\(other.log)")
                #expect(other.log.contains("rank 1") && other.log.contains("rank 0"), "\(other.log)")
                #expect(try await cluster.tool.run("health").status == 0)
            }
        }

        @Test("a rank index twice: the second, with another store, is refused naming both stores")
        func rankTwice() async throws {
            try await ClusterSetup(ranks: 2).run { cluster in
                let present = try await cluster.withClient { try await $0.rankStatuses()[1].store }
                let second = try await rank(1, store: cluster.directory.path("second"), cluster)
                #expect(second.exit == .status(78), "\(second.log)")
                #expect(second.log.contains("\(present)"), "\(second.log)")
                let outside = try await rank(2, store: cluster.directory.path("third"), cluster)
                #expect(outside.exit == .status(78), "\(outside.log)")
                #expect(outside.log.contains("rank 2 is not in the cluster, which has ranks 0..<2"), "\(outside.log)")
                #expect(try await cluster.tool.run("health").status == 0)
            }
        }

        @Test("a store of another cluster shape is refused with 78 and both shapes")
        func otherShape() async throws {
            let directory = TemporaryDirectory()
            let store = directory.path("store")
            try await ClusterSetup(ranks: 2, interleave: 4).run { cluster in
                await cluster.local.stop(deadline: .seconds(60))
                try FileManager.default.copyItem(
                    atPath: cluster.local.directory.data(of: .rank(RankIndex(0))), toPath: store)
            }
            try await ClusterSetup(ranks: 3, interleave: 1).run { cluster in
                let outcome = try await rank(0, store: store, cluster)
                #expect(outcome.exit == .status(78), "\(outcome.log)")
                #expect(outcome.log.contains("2") && outcome.log.contains("3"), "\(outcome.log)")
            }
        }

        @Test("a coordinator's state of another shape is refused with 78 and both values")
        func coordinatorShape() async throws {
            try await ClusterSetup(ranks: 2).run { cluster in
                await cluster.local.stop(deadline: .seconds(60))
                let outcome = try await daemon(
                    "dcp-coordinator",
                    [
                        "--state", cluster.local.directory.data(of: .coordinator), "--ranks", "2",
                        "--interleave", "4", "--block-tokens", "16", "--listen",
                        "unix:\(cluster.directory.path("other.sock"))",
                    ], in: cluster.directory)
                #expect(outcome.exit == .status(78), "\(outcome.log)")
                for role in cluster.local.roles { try cluster.local.start(role) }
                try await cluster.waitUntilReady()
            }
        }

        @Test(
            "options that are no cluster end with 64 and say which values",
            arguments: [
                (["--block-tokens", "16", "--interleave", "3"], ["16", "3", "--interleave"]),
                (["--block-tokens", "20"], ["20", "multiple of 16"]),
                (["--head-groups", "3"], ["3", "--head-groups"]),
                (["--exchange", "ring"], ["ring", "a2a"]),
                (["--lease", "0"], ["--lease"]),
            ])
        func coordinatorOptions(options: [String], words: [String]) async throws {
            let directory = TemporaryDirectory()
            let outcome = try await daemon(
                "dcp-coordinator",
                ["--state", directory.path("s"), "--listen", "unix:\(directory.path("l"))", "--ranks", "4"] + options,
                in: directory)
            #expect(outcome.exit == .status(64), "\(outcome.log)")
            for word in words { #expect(outcome.log.contains(word), "\(outcome.log)") }
        }
    }
}
