// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPWire
import Foundation
import Testing

extension Integration {
    @Suite("limits of the disk", .timeLimit(.minutes(5)))
    struct LimitTests {
        private static func trace(_ salt: UInt64) throws -> Trace {
            Trace(try shape(layers: 2, 4, 4, 64, 64, .float32), tokens: 12_000, salt: salt)
        }

        @Test(
            "--disk-limit: above the high watermark all ranks refuse new tokens alike, and closing a sequence ends it",
            arguments: [
                ClusterSetup(ranks: 2, blockTokens: 64), ClusterSetup(ranks: 4, headGroups: 2, blockTokens: 64),
            ])
        func limit(_ setup: ClusterSetup) async throws {
            let trace = try Self.trace(710)
            var setup = setup
            let limit = 6 << 20
            setup.rankArguments = ["--disk-limit", "6MiB", "--high-watermark", "80", "--low-watermark", "70"]
            try await setup.run { cluster in
                try await cluster.withClient { client in
                    let filler = try await client.open(trace, "filler", model: "m")
                    _ = try await client.play(trace, Cuts([0, 600]), on: filler)
                    let sequence = try await client.open(trace, "s", model: "m")
                    let (committed, refusal) = try await client.fill(trace, stride: 100, on: sequence)
                    let error = try #require(refusal, "the stores never filled up")
                    #expect(error.isRetryable && error.rank != nil)
                    for word in ["high watermark is 80 %", "less than 70 %", "close or truncate", "--disk-limit"] {
                        #expect(error.message.contains(word), "\(error)")
                    }
                    #expect(committed > 0)
                    let progress = try await client.resume(sequence)
                    #expect(!progress.isUneven && progress.committedLength == committed)
                    #expect(progress.layerLengths == [committed, committed], "no rank keeps a refused token")
                    // All ranks report the reason, whichever filled up first.
                    let full = try await client.statuses { $0.allSatisfy { !$0.room.refusal.isEmpty } }
                    for status in full {
                        #expect(status.room.durability == "everysec")
                        #expect(status.room.lowByteCount < status.room.highByteCount)
                        #expect(status.room.highByteCount < status.mapByteCountMax && status.mapByteCountMax < limit)
                    }
                    let ranks = try await cluster.tool.run("ranks", "--json").list()
                    let conditions = ranks.compactMap {
                        ($0["counters"] as? [String: Any])?["store_condition"] as? String
                    }
                    #expect(conditions.contains("full") && conditions.count == setup.ranks)
                    try await client.closeSequence("filler")
                    _ = try await client.statuses { $0.allSatisfy(\.room.refusal.isEmpty) }
                    let range = committed..<committed + 5
                    let answer = Answer(try await client.step(trace, range, on: sequence))
                    trace.check(answer, range, "with room again")
                }
                for rank in 0..<UInt16(setup.ranks) {
                    let file = cluster.local.directory.data(of: .rank(RankIndex(rank))) + "/data.mdb"
                    let size = try FileManager.default.attributesOfItem(atPath: file)[.size] as? Int
                    #expect(try #require(size) <= limit)
                    #expect(
                        try cluster.log(of: .rank(RankIndex(rank))).contains(
                            "accepts new tokens again") || rank > 0)
                }
            }
        }

        @Test(
            "--evict lru: the least recently used sequence is evicted on all ranks; a pinned one and the one in use stay"
        )
        func eviction() async throws {
            let trace = try Self.trace(711)
            var setup = ClusterSetup(ranks: 2, blockTokens: 64)
            setup.rankArguments = ["--disk-limit", "6MiB"]
            setup.coordinatorArguments = ["--evict", "lru", "--lease", "0.6", "--evict-idle", "0.6"]
            try await setup.run { cluster in
                try await cluster.withClient { client in
                    var handles: [String: SequenceHandle] = [:]
                    for name in ["pinned", "old", "used"] {
                        let handle = try await client.open(trace, name, model: "m")
                        _ = try await client.play(trace, Cuts([0, 500]), on: handle)
                        handles[name] = handle
                    }
                    let pin = try await cluster.tool.run("sequence", "pin", "pinned", "--json").object()
                    #expect(pin["pinned"] as? Bool == true)
                    let used = try #require(handles["used"])
                    // Evictions make room as long as there is something to evict.
                    var (committed, refusal) = (500, ServiceError?.none)
                    var names: Set<String> = []
                    repeat {
                        (committed, refusal) = try await client.fill(trace, stride: 100, on: used, from: committed)
                        if refusal != nil {
                            // Of a commit, or of a step. Tokens whose commit was refused are there, and wait for room.
                            committed = try await client.resume(used).layerLengths.min() ?? 0
                        }
                        names = Set(try await client.sequences().map(\.record.name))
                    } while names.contains("old")
                    #expect(names == ["pinned", "used"])
                    let list = try await cluster.tool.run("sequence", "list", "--json").list()
                    #expect(list.first { $0["name"] as? String == "pinned" }?["pinned"] as? Bool == true)
                    try await cluster.tool.fails(65, saying: ["evicted", "`old`"], ["sequence", "show", "old"])
                    // Who still holds it hears what became of it.
                    let old = try #require(handles["old"])
                    let gone = await #expect(throws: ServiceError.self) {
                        try await client.step(trace, 500..<501, on: old)
                    }
                    #expect(gone?.code == .evicted, "\(String(describing: gone))")
                    let pinned = try #require(handles["pinned"])
                    #expect(try await client.status(of: pinned).committedLength == 500)
                }
                let log = try cluster.log(of: .coordinator)
                let line = log.split(separator: "\n").first { $0.contains("Sequence evicted to make room") }
                #expect(line?.contains("old") == true, "\(log)")
            }
        }

        @Test("--evict off: kept sequences make room, the lowest priority first; claimed ones stay")
        func kept() async throws {
            let trace = try Self.trace(714)
            let ids = (0..<400).map { UInt32($0 * 5 + 3) }
            var setup = ClusterSetup(ranks: 2, blockTokens: 64)
            setup.rankArguments = ["--disk-limit", "6MiB"]
            setup.coordinatorArguments = ["--evict", "off", "--lease", "0.6", "--evict-idle", "0.6"]
            try await setup.run { cluster in
                try await cluster.withClient { client in
                    // Of one beginning, and the less wanted is used last.
                    for (name, length) in [("wanted", 400), ("other", 300)] {
                        let sequence = try await client.open(trace, name, model: "m")
                        _ = try await client.play(trace, Cuts([0, length]), on: sequence, commit: .never)
                        let tokens = TokenIDs(start: 0, ids: Array(ids[..<length]))
                        try await client.commit([
                            SequenceCommit(sequence: sequence.record.id, length: length, tokens: tokens)
                        ])
                        let priority = name == "wanted" ? 1 : 0
                        _ = try await cluster.tool.run("sequence", "retain", name, "--priority", "\(priority)")
                        try await client.closeSequence(name, keep: true)
                    }
                    // Until both have been idle for --evict-idle, of which nobody tells.
                    try await Task.sleep(for: .milliseconds(700))
                    let held = try await client.open(trace, "held", model: "m")
                    var (committed, refusal) = (0, ServiceError?.none)
                    #expect(try await client.match(model: held.model, ids: ids)?.length == 400)
                    var left: [String] = []
                    repeat {
                        (committed, refusal) = try await client.fill(trace, stride: 100, on: held, from: committed)
                        if refusal != nil { committed = try await client.resume(held).layerLengths.min() ?? 0 }
                        left = try await client.sequences().map(\.record.name).sorted()
                    } while left != ["held"]
                    #expect(try await client.match(model: held.model, ids: ids) == nil)
                    // Nothing is kept any more, so the rest is refused, and what somebody has is still there.
                    (committed, refusal) = try await client.fill(trace, stride: 100, on: held, from: committed)
                    #expect(refusal?.code == .storeFull, "\(String(describing: refusal))")
                    #expect(try await client.sequences().map(\.record.name) == ["held"])
                }
                let lines = try cluster.log(of: .coordinator).split(separator: "\n").filter {
                    $0.contains("Sequence evicted to make room")
                }
                #expect(lines.count == 2 && lines[0].contains("other") && lines[1].contains("wanted"), "\(lines)")
                let page = try await cluster.get("/metrics", of: .coordinator)
                #expect(page.body.contains(#"dcp_evictions_total{cause="room"} 2"#), "\(page.body)")
                #expect(page.body.contains(#"dcp_evictions_total{cause="age"} 0"#))
            }
        }

        @Test(
            "--evict lru: the order of uses survives the coordinator; that of commits survives all daemons",
            arguments: [false, true])
        func order(allDie: Bool) async throws {
            let trace = try Self.trace(713)
            var setup = ClusterSetup(ranks: 2, blockTokens: 64)
            setup.rankArguments = ["--disk-limit", "6MiB"]
            setup.coordinatorArguments = ["--evict", "lru", "--lease", "0.6", "--evict-idle", "0.6"]
            let names = ["alpha", "beta", "gamma"]
            try await setup.run { cluster in
                try await cluster.withClient { client in
                    var handles: [SequenceHandle] = []
                    for name in names {
                        let handle = try await client.open(trace, name, model: "m")
                        _ = try await client.play(trace, Cuts([0, 300]), on: handle)
                        handles.append(handle)
                    }
                    // Neither by number nor, with ranks that live, by commit is beta the oldest.
                    for index in allDie ? [1, 2, 0] : [0, 1, 2] {
                        _ = try await client.play(trace, Cuts([300, 301]), on: handles[index])
                    }
                    if !allDie {
                        for index in [1, 2, 0] { _ = try await client.step(trace, 301..<302, on: handles[index]) }
                    }
                }
                let dying: [DaemonRole] = allDie ? cluster.local.roles : [.coordinator]
                for role in dying { try await cluster.local.kill(role) }
                for role in dying { try cluster.local.start(role) }
                try await cluster.waitUntilReady()
                try await cluster.withClient { client in
                    let filler = try await client.open(trace, "filler", model: "m")
                    var (committed, refusal) = (0, ServiceError?.none)
                    var left: Set<String> = []
                    repeat {
                        (committed, refusal) = try await client.fill(trace, stride: 100, on: filler, from: committed)
                        if refusal != nil { committed = try await client.resume(filler).layerLengths.min() ?? 0 }
                        left = Set(try await client.sequences().map(\.record.name))
                    } while left.isSuperset(of: names)
                }
                let lines = try cluster.log(of: .coordinator).split(separator: "\n")
                let first = lines.first { $0.contains("Sequence evicted to make room") }
                #expect(first?.contains("beta") == true, "\(String(describing: first))")
            }
        }

        @Test(
            "a durability survives the death of all daemons, and status shows it",
            arguments: ["always", "everysec", "never"])
        func kill(_ durability: String) async throws {
            let trace = try Self.trace(712)
            var setup = ClusterSetup(ranks: 2)
            setup.rankArguments = ["--durability", durability]
            try await setup.run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s", model: "m")
                    _ = try await client.play(trace, Cuts([0, 90, 100]), on: sequence, commit: .everyStep)
                    #expect(try await client.rankStatuses().map(\.room.durability) == [durability, durability])
                    #expect(try await cluster.tool.run("status").data.contains(durability))
                }
                for role in cluster.local.roles { try await cluster.local.kill(role) }
                for role in cluster.local.roles { try cluster.local.start(role) }
                try await cluster.waitUntilReady()
                try await cluster.withClient { client in
                    let sequence = try await client.openSequence("s", model: nil)
                    #expect(try await client.resume(sequence).committedLength == 100)
                    let answer = Answer(try await client.step(trace, 100..<110, on: sequence))
                    trace.check(answer, 100..<110, "after the death of all")
                }
            }
        }
    }
}
