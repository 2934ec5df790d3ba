// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPWire
import Foundation
import Testing

extension Integration {
    /// The coordinator's state is gone, or an older copy, and the ranks' stores are there.
    @Suite("a lost coordinator", .timeLimit(.minutes(5)))
    struct AdoptionTests {
        private static func trace(_ salt: UInt64) throws -> Trace {
            Trace(try shape(4, 2, 16, 16, .float32), tokens: 60, salt: salt)
        }

        private static func exits(_ role: DaemonRole, _ cluster: TestCluster) async throws -> ProcessExit? {
            let process = try #require(cluster.local.daemon(role))
            return try await onOwnThread { process.waitForExit(until: .now + .seconds(60)) }
        }

        /// Both stories go on from where all ranks have them, with the bits of one that nothing has happened to.
        private static func goesOn(_ traces: [String: Trace], from length: Int, _ cluster: TestCluster) async throws {
            try await cluster.withClient { client in
                for (name, trace) in traces {
                    let sequence = try await client.openSequence(name, model: nil)
                    #expect(try await client.resume(sequence).committedLength == length)
                    let answers = try await client.play(trace, Cuts([length, 60]), on: sequence)
                    trace.check(answers[0], length..<60, name)
                }
            }
        }

        @Test(
            "with the state deleted ranks exit with 78 and name the remedy; after adoption every sequence keeps its name and pins"
        )
        func lost() async throws {
            let traces = ["chat-1": try Self.trace(951), "chat-2": try Self.trace(952)]
            try await ClusterSetup(ranks: 2).run { cluster in
                let local = cluster.local
                try await cluster.withClient { client in
                    for (name, trace) in traces {
                        _ = try await client.play(trace, Cuts([0, 30]), on: client.open(trace, name, model: "m"))
                    }
                    _ = try await client.open(Self.trace(953), "closed", model: "m")
                    try await client.closeSequence("closed")
                }
                try await cluster.tool.run("sequence", "pin", "chat-1")
                try await local.kill(.coordinator)
                try FileManager.default.removeItem(atPath: local.directory.data(of: .coordinator))
                try local.start(.coordinator)
                for rank in local.roles.dropFirst() {
                    #expect(try await Self.exits(rank, cluster) == .status(78))
                    #expect(try cluster.log(of: rank).contains("--adopt-ranks"))
                }

                try await local.kill(.coordinator)
                try local.start(.coordinator, arguments: ["--adopt-ranks"])
                for rank in local.roles.dropFirst() { try local.start(rank) }
                try await cluster.waitUntilReady()
                let log = try cluster.log(of: .coordinator)
                #expect(log.contains("The directory was rebuilt from the ranks' stores"), "\(log)")
                #expect(log.contains("not-adopted: 0"), "\(log)")
                let list = try await cluster.tool.run("sequence", "list", "--json").list()
                #expect(Set(list.compactMap { $0["name"] as? String }) == Set(traces.keys))
                let pinned = list.filter { $0["pinned"] as? Bool == true }.compactMap { $0["name"] as? String }
                #expect(pinned == ["chat-1"])
                try await Self.goesOn(traces, from: 30, cluster)
                // Again as always, without being told.
                try await local.kill(.coordinator)
                try local.start(.coordinator)
                try await cluster.waitUntilReady()
                #expect(try await cluster.tool.run("sequence", "list", "--json").list().count == 2)
            }
        }

        @Test(
            "with an older state, what was opened since comes back, what was closed since is gone, and no token is lost"
        )
        func older() async throws {
            let traces = ["first": try Self.trace(954), "second": try Self.trace(955)]
            try await ClusterSetup(ranks: 2).run { cluster in
                let local = cluster.local
                let state = local.directory.data(of: .coordinator), copy = cluster.directory.path("older")
                try await cluster.withClient { client in
                    _ = try await client.open(Self.trace(956), "closed-since", model: "m")
                    _ = try await client.play(
                        traces["first"]!, Cuts([0, 10]), on: client.open(traces["first"]!, "first"))
                }
                _ = try await local.stop(.coordinator, deadline: .seconds(60))
                try FileManager.default.copyItem(atPath: state, toPath: copy)
                try local.start(.coordinator)
                try await cluster.waitUntilReady()
                try await cluster.withClient { client in
                    let first = try await client.openSequence("first", model: nil)
                    _ = try await client.resume(first)
                    _ = try await client.play(traces["first"]!, Cuts([10, 30]), on: first)
                    _ = try await client.play(
                        traces["second"]!, Cuts([0, 30]), on: client.open(traces["second"]!, "second", model: "m"))
                    try await client.closeSequence("closed-since")
                }
                try await local.kill(.coordinator)
                try FileManager.default.removeItem(atPath: state)
                try FileManager.default.copyItem(atPath: copy, toPath: state)
                try local.start(.coordinator, arguments: ["--adopt-ranks"])
                try await cluster.waitUntilReady()
                let log = try cluster.log(of: .coordinator)
                #expect(log.contains("closed-names: closed-since"), "\(log)")
                let list = try await cluster.tool.run("sequence", "list", "--json").list()
                #expect(Set(list.compactMap { $0["name"] as? String }) == Set(traces.keys))
                try await Self.goesOn(traces, from: 30, cluster)
            }
        }

        @Test(
            "ranks refuse an older state even if no epoch came after it; with the newest one service resumes"
        )
        func sameEpoch() async throws {
            let traces = ["first": try Self.trace(958), "second": try Self.trace(959)]
            try await ClusterSetup(ranks: 2).run { cluster in
                let local = cluster.local
                let state = local.directory.data(of: .coordinator), newest = cluster.directory.path("newest")
                let backup = cluster.directory.path("backup")
                func play(_ name: String) async throws {
                    try await cluster.withClient { client in
                        let trace = traces[name]!
                        _ = try await client.play(trace, Cuts([0, 30]), on: client.open(trace, name, model: "m"))
                    }
                }
                try await play("first")
                try await cluster.tool.run("backup", backup, "--only", "coordinator")
                try await play("second")
                try await local.kill(.coordinator)
                try FileManager.default.moveItem(atPath: state, toPath: newest)
                try await cluster.tool.run("restore", backup, "--to", local.directory.path)
                try local.start(.coordinator)
                for rank in local.roles.dropFirst() {
                    #expect(try await Self.exits(rank, cluster) == .status(78))
                    let log = try cluster.log(of: rank)
                    #expect(log.contains("of the directory in epoch 1") && log.contains("--adopt-ranks"), "\(log)")
                }
                try await local.kill(.coordinator)
                try FileManager.default.removeItem(atPath: state)
                try FileManager.default.moveItem(atPath: newest, toPath: state)
                try local.start(.coordinator)
                for rank in local.roles.dropFirst() { try local.start(rank) }
                try await cluster.waitUntilReady()
                try await Self.goesOn(traces, from: 30, cluster)
            }
        }

        @Test(
            "a rank with a store of another cluster, or with an empty one, is refused, and nothing is adopted without it"
        )
        func strangers() async throws {
            let trace = try Self.trace(957)
            var foreign = ""
            let others = TemporaryDirectory()
            try await ClusterSetup(ranks: 2).run { cluster in
                _ = try await cluster.local.stop(.rank(RankIndex(1)), deadline: .seconds(60))
                foreign = others.path("foreign")
                try FileManager.default.copyItem(
                    atPath: cluster.local.directory.data(of: .rank(RankIndex(1))), toPath: foreign)
            }
            try await ClusterSetup(ranks: 2).run { [foreign] cluster in
                let (local, role) = (cluster.local, DaemonRole.rank(RankIndex(1)))
                try await cluster.withClient { client in
                    _ = try await client.play(trace, Cuts([0, 30]), on: client.open(trace, "s", model: "m"))
                }
                let (store, own) = (local.directory.data(of: role), cluster.directory.path("own"))
                _ = try await local.stop(role, deadline: .seconds(60))
                try FileManager.default.moveItem(atPath: store, toPath: own)
                try await local.kill(.coordinator)
                try FileManager.default.removeItem(atPath: local.directory.data(of: .coordinator))
                try local.start(.coordinator, arguments: ["--adopt-ranks"])
                // The other one has to be known first, or else the stranger would be taken for the cluster.
                let client = try await Cluster.connect(
                    to: Endpoint(local.coordinatorEndpoint), retryFor: .seconds(60))
                while try await client.topology(wait: .milliseconds(100)).endpoint(of: RankIndex(0)) == nil {}
                await client.close()
                for (copy, part) in [(foreign, "belongs to cluster"), (nil, "has never joined a cluster")] {
                    try? FileManager.default.removeItem(atPath: store)
                    if let copy { try FileManager.default.copyItem(atPath: copy, toPath: store) }
                    try local.start(role)
                    #expect(try await Self.exits(role, cluster) == .status(78))
                    #expect(try cluster.log(of: role).contains(part))
                }
                try FileManager.default.removeItem(atPath: store)
                try FileManager.default.moveItem(atPath: own, toPath: store)
                try local.start(role)
                try await cluster.waitUntilReady()
                try await Self.goesOn(["s": trace], from: 30, cluster)
            }
        }
    }
}
