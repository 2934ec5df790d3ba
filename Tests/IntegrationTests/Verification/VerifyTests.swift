// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPWire
import Foundation
import Testing

extension Integration {
    /// Damage in a rank's store: found, never served, and cut off on all ranks.
    @Suite("verify")
    struct VerifyTests {
        private static func trace(tokens: Int, salt: UInt64, isMixed: Bool = false) throws -> Trace {
            let shape = isMixed ? try mixedShape() : try shape(layers: 2, 6, 2, 16, 16, .bfloat16)
            return Trace(shape, tokens: tokens, salt: salt)
        }

        /// Three ranks, interleave 4, blocks of 16: local token 16 of rank 1 is at position 16 / 4 x 12 + 4.
        private static let setup = ClusterSetup(ranks: 3, interleave: 4)
        private static let cut = 52

        /// Layer 1, which is damaged: with values of its own, or latent.
        @Test(
            "a flipped bit fails the steps of its sequences and no others; after a repair cuts them, they continue",
            arguments: [false, true])
        func flippedBit(isMixed: Bool) async throws {
            let victim = try Self.trace(tokens: 200, salt: 3000, isMixed: isMixed)
            let other = try Self.trace(tokens: 170, salt: 3001, isMixed: isMixed)
            try await Self.setup.run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(victim, "victim", model: "m")
                    _ = try await client.play(victim, Cuts([0, 160]), on: sequence)
                    _ = try await client.play(other, Cuts([0, 120]), on: client.open(other, "other", model: "m"))
                    try await client.fork("victim", as: "fork", length: 130)
                }
                #expect(try await cluster.tool.run("verify").status == 0)
                let damage = StoreDamage(cluster, rank: 1)
                try await damage.flip(StoreDamage.block(writer: 1, layer: 1, index: 1), at: 70) {
                    let offline = try await cluster.tool.run("verify", "--store", damage.store, "--json")
                    #expect(offline.status == 74, "\(offline.messages)")
                    let findings = try #require(try offline.object()["findings"] as? [[String: Any]])
                    #expect(findings.count == 2)
                    #expect(findings.allSatisfy { $0["layer"] as? Int == 1 && $0["block"] as? Int == 1 })
                    #expect(findings[0]["sequence"] as? String == "victim")
                }
                try await cluster.withClient { client in
                    let process = try await client.rankStatuses()[1].processID
                    for name in ["victim", "fork"] {
                        let sequence = try await client.openSequence(name, model: nil)
                        let length = try await client.status(of: sequence).committedLength
                        let error = await #expect(throws: ServiceError.self) {
                            _ = try await client.play(victim, Cuts([length, length + 1]), on: sequence)
                        }
                        #expect(error?.code == .storeDamaged && error?.rank == RankIndex(1))
                        #expect(
                            error?.message.contains("\(sequence.record.id)") == true, "\(String(describing: error))")
                        #expect(error?.message.contains("to \(Self.cut) tokens") == true)
                        try await client.resume(sequence)
                    }
                    let sequence = try await client.openSequence("other", model: nil)
                    let answers = try await client.play(other, Cuts([120, 150, 151]), on: sequence)
                    for (layer, answer) in answers.enumerated() {
                        other.check(answer, layer: layer, 120..<151, "beside the damage")
                    }
                    #expect(try await client.rankStatuses()[1].processID == process, "the daemon lives")
                }
                try await repair(cluster, ["victim": 160, "fork": 130])
                try await cluster.withClient { client in
                    for name in ["victim", "fork"] {
                        let sequence = try await client.openSequence(name, model: nil)
                        let lengths = try await client.status(of: sequence).layerLengths
                        #expect(lengths.allSatisfy { $0 == Self.cut })
                        let answers = try await client.play(victim, Cuts([Self.cut, 100, 101, 200]), on: sequence)
                        for (layer, answer) in answers.enumerated() {
                            victim.check(answer, layer: layer, Self.cut..<200, "\(name) after the repair")
                        }
                    }
                }
                #expect(try await cluster.tool.run("verify").status == 0)
            }
        }

        @Test("a damaged block outside every window: steps continue over the others, and a verification finds it")
        func unseenBlock() async throws {
            let trace = try Self.trace(tokens: 200, salt: 3007, isMixed: true)
            try await Self.setup.run { cluster in
                try await cluster.withClient { client in
                    _ = try await client.play(trace, Cuts([0, 160]), on: client.open(trace, "s", model: "m"))
                }
                // Of the layer with a window of 50, positions 4 to 43.
                let block = StoreDamage.block(writer: 1, layer: 0, index: 0)
                try await StoreDamage(cluster, rank: 1).flip(block, at: 70)
                try await cluster.withClient { client in
                    let sequence = try await client.openSequence("s", model: nil)
                    let answers = try await client.play(trace, Cuts([160, 161, 190]), on: sequence)
                    for (layer, answer) in answers.enumerated() {
                        trace.check(answer, layer: layer, 160..<190, "beyond the damage")
                    }
                }
                try await repair(cluster, ["s": 190], to: 4)
                try await cluster.withClient { client in
                    let sequence = try await client.openSequence("s", model: nil)
                    let answers = try await client.play(trace, Cuts([4, 100, 101, 200]), on: sequence)
                    for (layer, answer) in answers.enumerated() {
                        trace.check(answer, layer: layer, 4..<200, "after the repair")
                    }
                }
            }
        }

        /// `verify` finds damage, `--repair` cuts it off, `verify` finds nothing.
        private func repair(_ cluster: TestCluster, _ lengths: [String: Int], to cut: Int = cut) async throws {
            let found = try await cluster.tool.run("verify")
            #expect(found.status == 74 && found.data.contains("--repair"), "\(found)")
            for name in lengths.keys { #expect(found.data.contains(name)) }
            try await cluster.tool.fails(64, saying: ["--yes"], ["verify", "--repair"])
            let repaired = try await cluster.tool.run("verify", "--repair", "--yes", "--json")
            #expect(repaired.status == 0, "\(repaired.messages)")
            let view = try repaired.object()
            #expect(view["repaired"] as? Bool == true)
            let repairs = try #require(view["repairs"] as? [[String: Any]])
            #expect(Set(repairs.compactMap { $0["sequence"] as? String }) == Set(lengths.keys))
            for repair in repairs {
                #expect(repair["to"] as? Int == cut)
                #expect(repair["from"] as? Int == lengths[repair["sequence"] as? String ?? ""])
            }
            let clean = try await cluster.tool.run("verify")
            #expect(clean.status == 0 && clean.data.contains("No damage."), "\(clean)")
        }

        @Test("damage that nothing has met is found by a verification of that sequence alone")
        func unmet() async throws {
            let trace = try Self.trace(tokens: 120, salt: 3002)
            try await Self.setup.run { cluster in
                try await cluster.withClient { client in
                    _ = try await client.play(trace, Cuts([0, 110]), on: client.open(trace, "a", model: "m"))
                    _ = try await client.play(trace, Cuts([0, 110]), on: client.open(trace, "b", model: "m"))
                }
                // The last row of b on rank 1, layer 0: position 101, local token 35 of its open block.
                let row = try rowBytes(trace, layer: 0, position: 101)
                try await StoreDamage(cluster, rank: 1).flip(row, at: 3)
                try await cluster.withClient { client in
                    // Both hold the same tokens, so the row of each has been damaged.
                    let a = try await client.openSequence("a", model: nil)
                    let found = try await client.verify(a).flatMap(\.findings)
                    #expect(found.map(\.kind) == [.row] && found[0].intactLength == 101)
                    #expect(found[0].sequence == a.record.id)
                    let error = await #expect(throws: ServiceError.self) {
                        _ = try await client.step(trace, 110..<111, on: a)
                    }
                    #expect(error?.code == .storeDamaged)
                    try await client.resume(a)
                }
                try await repair(cluster, ["a": 110, "b": 110], to: 101)
                try await cluster.withClient { client in
                    let sequence = try await client.openSequence("b", model: nil)
                    let answers = try await client.play(trace, Cuts([101, 120]), on: sequence)
                    trace.check(answers[1], layer: 1, 101..<120, "after the repair")
                }
            }
        }

        /// A token's keys of all KV heads, as a row has them.
        private func rowBytes(_ trace: Trace, layer: Int, position: Int) throws -> Data {
            let (heads, dim) = (trace.shape.kvHeads, trace.shape.keyDim)
            let start = position * heads * dim
            return Data(Rounding.bytes(Array(trace.layers[layer].keys[start..<start + heads * dim]), as: .bfloat16))
        }

        @Test("a rank that has lost a sequence's record: the repair opens the sequence again, empty")
        func record() async throws {
            let trace = try Self.trace(tokens: 60, salt: 3003)
            try await Self.setup.run { cluster in
                let model = try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "lost", model: "m")
                    _ = try await client.play(trace, Cuts([0, 50]), on: sequence)
                    return sequence.model.id
                }
                let record = StoreDamage.record(model: model, committed: 50)
                try await StoreDamage(cluster, rank: 1).flip(record, at: 24)
                let found = try await cluster.tool.run("verify", "--json")
                #expect(found.status == 74)
                let findings = try #require(try found.object()["findings"] as? [[String: Any]])
                #expect(findings.first { $0["kind"] as? String == "record" }?["sequence"] as? String == "lost")
                let repaired = try await cluster.tool.run("verify", "--repair", "--yes")
                #expect(repaired.status == 0 && repaired.data.contains("to 0 tokens"), "\(repaired)")
                try await cluster.withClient { client in
                    let sequence = try await client.openSequence("lost", model: nil)
                    trace.check(
                        Answer(try await client.step(trace, 0..<60, on: sequence)), 0..<60, "after the repair")
                }
            }
        }

        @Test(
            "more damage than a rank keeps findings of: listed up to the limit, counted beyond, gone after the repair")
        func everything() async throws {
            // 70 blocks in each of 64 layers.
            let trace = Trace(try shape(layers: 64, 1, 1, 8, 8, .bfloat16), tokens: 1125, salt: 3006)
            try await ClusterSetup(ranks: 1).run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s", model: "m")
                    for layer in 0..<64 {
                        let rows = trace.rows(layer, 0..<1125)
                        try await client.append(
                            layer: layer, [sequence.entry(position: 0, count: 1125)], model: sequence.model,
                            keys: rows.keys, values: rows.values)
                    }
                    try await client.commit(sequence, 1125)
                }
                try await StoreDamage(cluster, rank: 0).flip(Data("DCPB".utf8), at: 60)
                let found = try await cluster.tool.run("verify", "--json")
                #expect(found.status == 74, "\(found.messages)")
                let view = try found.object()
                let findings = try #require(view["findings"] as? [[String: Any]])
                #expect(findings.count == 4096 && view["damaged"] as? Int == 70 * 64)
                let places = findings.map { ($0["layer"] as? Int ?? -1) * 70 + ($0["block"] as? Int ?? -1) }
                #expect(places == Array(0..<4096))
                #expect((view["ranks"] as? [[String: Any]])?.first?["unlisted"] as? Int == 384)
                // What was not listed may be of another sequence: only another verification can tell.
                let repaired = try await cluster.tool.run("verify", "--repair", "--yes")
                #expect(
                    repaired.status == 74 && repaired.data.contains("from 1125 to 0 tokens"), "\(repaired.messages)")
                #expect(try await cluster.tool.run("verify").status == 0)
                try await cluster.withClient { client in
                    let sequence = try await client.openSequence("s", model: nil)
                    let answer = Answer(try await client.step(trace, 0..<40, layer: 63, on: sequence))
                    trace.check(answer, layer: 63, 0..<40, "after the repair")
                }
            }
        }

        @Test("a rank that was killed has no damage, and verify says which rank is missing")
        func killed() async throws {
            let trace = try Self.trace(tokens: 150, salt: 3004)
            try await Self.setup.run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s", model: "m")
                    _ = try await client.play(trace, Cuts([0, 90]), on: sequence)
                    _ = try await client.step(trace, 90..<150, on: sequence)
                }
                try await cluster.local.killRank(2)
                let store = StoreDamage(cluster, rank: 2).store
                let offline = try await cluster.tool.run("verify", "--store", store)
                #expect(offline.status == 0 && offline.data.contains("No damage."), "\(offline)")
                try await cluster.tool.fails(75, saying: ["rank 2"], ["verify"])
                try cluster.local.startRank(2)
                try await cluster.waitUntilReady()
                try await cluster.tool.fails(69, saying: ["in use", "without --store"], ["verify", "--store", store])
                #expect(try await cluster.tool.run("verify").status == 0)
            }
        }

        @Test("verifications at the same moment share a run, and steps beside them are answered rightly")
        func together() async throws {
            let trace = try Self.trace(tokens: 400, salt: 3005)
            try await Self.setup.run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s", model: "m")
                    _ = try await client.play(trace, Cuts([0, 300]), on: sequence)
                    async let first = client.verify()
                    async let second = client.verify(sequence)
                    async let answers = client.play(
                        trace, Cuts(Array(300...320) + [400]), on: sequence, commit: .everyStep)
                    for ranks in [try await first, try await second] {
                        #expect(ranks.map(\.rank) == cluster.shapeRanks)
                        #expect(ranks.allSatisfy { $0.findings.isEmpty && $0.progress.sequences == 1 })
                        #expect(ranks.allSatisfy { $0.progress.blocks >= 2 * 6 })
                    }
                    for (layer, answer) in try await answers.enumerated() {
                        trace.check(answer, layer: layer, 300..<400, "beside a verification")
                    }
                    let gone = try await client.open(trace, "gone", model: "m")
                    try await client.closeSequence("gone")
                    let error = await #expect(throws: ServiceError.self) { try await client.verify(gone) }
                    #expect(error?.code == .unknownSequence)
                }
            }
        }
    }
}

extension TestCluster {
    fileprivate var shapeRanks: [RankIndex] { local.rankEndpoints.indices.map { RankIndex(UInt16($0)) } }
}
