// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import Foundation
import Testing

extension Integration {
    /// Damage in LMDB's own pages, which have no checksum.
    @Suite("store pages")
    struct PageTests {
        @Test("a rank does not start over damaged pages, but says which; restored, it serves as before")
        func start() async throws {
            let trace = Trace(try shape(layers: 2, 4, 2, 16, 16, .bfloat16), tokens: 120, salt: 3200)
            try await ClusterSetup(ranks: 2).run { cluster in
                try await cluster.withClient { client in
                    _ = try await client.play(trace, Cuts([0, 100]), on: client.open(trace, "s", model: "m"))
                }
                let role = DaemonRole.rank(RankIndex(1))
                _ = try await cluster.local.stop(role, deadline: .seconds(60))
                let store = StoreDamage(cluster, rank: 1).store
                let url = URL(filePath: store + "/data.mdb")
                let good = try Data(contentsOf: url)
                var bad = good
                // Every leaf, the one in use among them, says that its nodes begin elsewhere.
                let leaves = (2..<good.count / 4096).filter { good[$0 * 4096 + 10] == 2 && good[$0 * 4096 + 11] == 0 }
                for leaf in leaves { bad[leaf * 4096 + 16] ^= 0x01 }
                try bad.write(to: url)
                let offline = try await cluster.tool.run("verify", "--store", store)
                #expect(offline.status == 74 && offline.data.isEmpty, "\(offline)")
                #expect(offline.messages.contains("has a node at"), "\(offline.messages)")
                try cluster.local.start(role)
                let daemon = try #require(cluster.local.daemon(role))
                let exit = try await onOwnThread { daemon.waitForExit(until: .now + .seconds(60)) }
                let log = try cluster.log(of: role)
                #expect(exit == .status(78), "\(log)")
                #expect(log.contains("has a node at") && log.contains("Restore it"), "\(log)")
                try good.write(to: url)
                try cluster.local.start(role)
                try await cluster.waitUntilReady()
                try await cluster.withClient { client in
                    let sequence = try await client.openSequence("s", model: nil)
                    let answer = Answer(try await client.step(trace, 100..<120, on: sequence))
                    trace.check(answer, 100..<120, "restored")
                }
            }
        }
    }
}
