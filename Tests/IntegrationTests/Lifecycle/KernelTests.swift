// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPLocalCluster
import Foundation
import Testing

extension Integration {
    @Suite("kernels")
    struct KernelTests {
        @Test("dcpctl kernels: DCP_KERNELS forces each set there is, and another value is refused with those")
        func forced() async throws {
            let free = try await CommandLineTool(environment: ["DCP_KERNELS": ""]).run("kernels", "--json").object()
            let available = try #require(free["available"] as? [String])
            #expect(available.first == "scalar")
            #expect(free["instruction_set"] as? String == available.last)
            for name in available {
                let tool = CommandLineTool(environment: ["DCP_KERNELS": name])
                #expect(try await tool.run("kernels", "--json").object()["instruction_set"] as? String == name)
                #expect(try await tool.run("kernels").data.hasPrefix("Kernels:  \(name) (available: scalar"))
            }
            try await CommandLineTool(environment: ["DCP_KERNELS": "neon"]).fails(
                64, saying: ["`neon`", "DCP_KERNELS", available.joined(separator: ", ")], ["kernels"])
        }

        @Test("dcpctl kernels shows the rate of each way to prefetch, or the way that DCP_KERNELS_AHEAD forces")
        func prefetch() async throws {
            let free = try await CommandLineTool(environment: ["DCP_KERNELS_AHEAD": ""]).run("kernels", "--json")
                .object()
            #expect(free["forced_prefetch"] == nil)
            let trials = try #require(free["prefetch"] as? [[String: Any]])
            #expect(trials.isEmpty || trials.count == 2 * CacheFormat.allCases.count)
            for trial in trials {
                let figures = try #require(trial["gigabytes_per_second"] as? [String: Double])
                #expect(Set(figures.keys) == ["first", "second:32", "none"])
                #expect(figures.values.allSatisfy { $0 > 0 })
            }
            let forced = CommandLineTool(environment: ["DCP_KERNELS_AHEAD": "second:48"])
            #expect(try await forced.run("kernels", "--json").object()["forced_prefetch"] as? String == "second:48")
            #expect(try await forced.run("kernels").data.contains("Prefetch: second:48, by DCP_KERNELS_AHEAD"))
            try await CommandLineTool(environment: ["DCP_KERNELS_AHEAD": "third"]).fails(
                64, saying: ["`third`", "DCP_KERNELS_AHEAD", "first, second or none"], ["kernels"])
        }

        @Test("a rank measures how to prefetch at its first start, keeps it beside its store, and takes it again")
        func measuredOnce() async throws {
            let kernels = try await CommandLineTool(environment: ["DCP_KERNELS": ""]).run("kernels", "--json").object()
            guard kernels["instruction_set"] as? String != "scalar" else { return }
            try await ClusterSetup(ranks: 1, environment: ["DCP_KERNELS_AHEAD": ""]).run { cluster in
                let role = DaemonRole.rank(RankIndex(0))
                #expect(try cluster.log(of: role).contains("Kernels prefetch as measured now"))
                #expect(try cluster.log(of: role).contains("bf16-4-rows"))
                let file = cluster.local.directory.data(of: role) + "/kernels.json"
                // A machine that does much else comes to some kinds of work at each start, and to one at least.
                let known = "Kernels prefetch as measured at an earlier start"
                var kept: Data?
                for _ in 0..<20 {
                    if try cluster.log(of: role).contains(known) { break }
                    kept = FileManager.default.contents(atPath: file)
                    #expect(kept != nil)
                    try await cluster.local.kill(role)
                    try cluster.local.start(role)
                    try await cluster.waitUntilReady()
                }
                #expect(try cluster.log(of: role).contains(known))
                #expect(FileManager.default.contents(atPath: file) == kept)
            }
        }
    }
}
