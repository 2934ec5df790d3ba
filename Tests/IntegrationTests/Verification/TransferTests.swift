// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPSafetensors
import DCPTestKit
import DCPTransfer
import DCPWire
import Foundation
import Synchronization
import Testing

extension Integration {
    /// Sequences that move between clusters of different shapes, bit by bit.
    @Suite("export and import")
    struct TransferTests {
        static let shapes = [
            ClusterSetup(ranks: 1, blockTokens: 64), ClusterSetup(ranks: 2, interleave: 16),
            ClusterSetup(ranks: 4, headGroups: 2, interleave: 2), ClusterSetup(ranks: 2, headGroups: 2),
            ClusterSetup(ranks: 3, interleave: 4, exchange: .allGatherReduceScatter),
        ]
        private static let length = 211

        /// The committed tokens of a sequence on a cluster of its own, in a file.
        private func export(_ trace: Trace, from setup: ClusterSetup, to path: String) async throws {
            try await setup.run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "chat", model: "m")
                    _ = try await client.play(trace, Cuts([0, 100, 101, Self.length]), on: sequence)
                    // Not committed, so not in the file.
                    _ = try await client.step(trace, Self.length..<Self.length + 5, on: sequence)
                }
                let outcome = try await cluster.tool.run("sequence", "export", "chat", path, "--json")
                #expect(outcome.status == 0, "\(outcome.messages)")
                #expect(try outcome.object()["tokens"] as? Int == Self.length)
            }
        }

        @Test(
            "from one shape to every other and out again: the same file; what it holds is attended to as before",
            arguments: CacheFormat.allCases, [false, true])
        func grid(type: CacheFormat, isMixed: Bool) async throws {
            // Formats with scales do not keep values that are a part of the keys.
            guard !isMixed || !type.hasScales else { return }
            let shape = isMixed ? try mixedShape(type) : try shape(layers: 2, 8, 4, 16, 24, type, softcap: 20)
            let trace = Trace(shape, tokens: Self.length + 40, salt: 3100 + UInt64(type.rawValue))
            let directory = TemporaryDirectory()
            let path = directory.path("chat.safetensors")
            let source = Int(type.rawValue) % Self.shapes.count
            try await export(trace, from: Self.shapes[source], to: path)
            try check(path, trace)
            let exported = try Data(contentsOf: URL(filePath: path))
            for (number, target) in Self.shapes.enumerated() where number != source {
                try await target.run { cluster in
                    let outcome = try await cluster.tool.run("sequence", "import", path)
                    #expect(outcome.status == 0, "\(target.testDescription): \(outcome.messages)")
                    let again = directory.path("again-\(number).safetensors")
                    #expect(try await cluster.tool.run("sequence", "export", "chat", again).status == 0)
                    #expect(
                        try Data(contentsOf: URL(filePath: again)) == exported, "\(target.testDescription), \(type)")
                    #expect(try await cluster.tool.run("verify").status == 0)
                    try await cluster.withClient { client in
                        let sequence = try await client.openSequence("chat", model: nil)
                        let answers = try await client.play(
                            trace, Cuts([Self.length, Self.length + 1, trace.tokens]), on: sequence)
                        for (layer, answer) in answers.enumerated() {
                            trace.check(
                                answer, layer: layer, Self.length..<trace.tokens, "imported, \(target.testDescription)")
                        }
                    }
                }
            }
        }

        /// The file's tensors are the trace's keys and values, rounded to the cache format.
        private func check(_ path: String, _ trace: Trace) throws {
            let file = try SafetensorsFile.open(path)
            for (layer, rows) in trace.layers.enumerated() {
                let kind = trace.shape[layer]
                #expect((file.entry(named: "layers.\(layer).v") == nil) == (kind.ownValueDim == 0))
                for (name, values, dim) in [
                    ("k", rows.keys, kind.keyDim), ("v", rows.values, kind.ownValueDim),
                ] where dim > 0 {
                    let kept = Rounding.kept(
                        Array(values[..<(Self.length * kind.kvHeads * dim)]), dim: dim, areKeys: name == "k",
                        trace.shape.kvFormat)
                    let name = "layers.\(layer).\(name)"
                    #expect(file.entry(named: name)?.shape == [Self.length, kind.kvHeads, dim])
                    guard trace.shape.kvFormat.hasScales else {
                        let tensor = try file.tensor(named: name)
                        let bytes = try tensor.withBytes { (bytes) throws(ServiceError) in Array(bytes) }
                        #expect(bytes == Rounding.bytes(kept, as: trace.shape.kvFormat.rowType))
                        continue
                    }
                    let scales = try file.tensor(named: name + "_scale")
                    #expect(scales.shape == [Self.length, kind.kvHeads] && scales.dataType == .float32)
                    var words: [UInt32] = []
                    if trace.shape.kvFormat.hasWords, name.hasSuffix("k") {
                        let entry = try #require(file.entry(named: name + "_apart"))
                        #expect(entry.shape == [Self.length, kind.kvHeads] && entry.dataType == .uint32)
                        words = try file.bytes(of: entry).withUnsafeBytes { Array($0.bindMemory(to: UInt32.self)) }
                        // Of 16 dimensions one stands out in every third row or so.
                        #expect(words.contains { $0 != 0 } && words.contains(0))
                    }
                    let scaled = ScaledRows(
                        bytes: try file.bytes(of: try #require(file.entry(named: name))),
                        scales: try scales.floats(rows: 0..<Self.length), words: words)
                    let numbers = trace.shape.kvFormat.numbers(scaled, dim: dim, areRotated: name.hasSuffix("k"))
                    #expect(numbers.map(\.bitPattern) == kept.map(\.bitPattern))
                }
            }
        }

        @Test("a rank killed in the middle of an import: it reports its progress, and continues from there")
        func interrupted() async throws {
            // 16 KiB a token: 512 tokens a chunk, so three chunks.
            let trace = Trace(try shape(8, 8, 256, 256, .float32), tokens: 1300, salt: 3110)
            let directory = TemporaryDirectory()
            let path = directory.path("long.safetensors")
            let setup = ClusterSetup(ranks: 2, interleave: 4)
            try await setup.run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "long", model: "m")
                    for tokens in [0..<700, 700..<1300] {
                        let rows = trace.rows(0, tokens)
                        try await client.append(
                            layer: 0, [sequence.entry(position: tokens.lowerBound, count: tokens.count)],
                            model: sequence.model, keys: rows.keys, values: rows.values)
                    }
                    try await client.commit(sequence, 1300)
                    #expect(try await client.export("long", to: path).byteCount == 1300 * 16384)
                }
            }
            let file = try SequenceFile(path)
            try await setup.run { cluster in
                let error = try await cluster.withClient { client in
                    let victim = pid_t(try await client.rankStatuses()[1].processID)
                    let isKilled = Atomic(false)
                    return await #expect(throws: ServiceError.self) {
                        try await client.importSequence(file) { done, total in
                            #expect(total == 1300)
                            if done >= 1024, !isKilled.exchange(true, ordering: .relaxed) { kill(victim, SIGKILL) }
                        }
                    }
                }
                #expect(
                    error?.isRetryable == true && error?.code != .deadlineExceeded, "\(String(describing: error))")
                #expect(error?.message.contains("committed up to 512 of the file's 1300 tokens") == true)
                #expect(error?.message.contains("--resume") == true)
                let killed = try #require(cluster.local.daemon(.rank(RankIndex(1))))
                _ = try await onOwnThread { killed.waitForExit() }
                try cluster.local.startRank(1)
                try await cluster.waitUntilReady()
                try await cluster.tool.fails(65, saying: ["`long`", "--resume"], ["sequence", "import", path])
                let outcome = try await cluster.tool.run("sequence", "import", path, "--resume", "--json")
                #expect(outcome.status == 0, "\(outcome.messages)")
                #expect(try outcome.object()["tokens_kept"] as? Int == 512)
                let again = directory.path("again.safetensors")
                #expect(try await cluster.tool.run("sequence", "export", "long", again).status == 0)
                #expect(try Data(contentsOf: URL(filePath: again)) == Data(contentsOf: URL(filePath: path)))
            }
        }

        @Test("an import that goes on compares ids, also if all tokens are there, and adds them where there are none")
        func ids() async throws {
            let trace = Trace(try shape(layers: 2, 4, 2, 16, 16, .bfloat16), tokens: 60, salt: 3130)
            let ids = (0..<60).map { UInt32($0 * 7) }
            var others = ids
            others[40] += 1
            try await ClusterSetup(ranks: 2).run { [others] cluster in
                let path = cluster.directory.path("ids.safetensors")
                try await cluster.withClient { client in
                    for (name, ids) in [("with", ids), ("other", others), ("without", nil)] as [(String, [UInt32]?)] {
                        let sequence = try await client.open(trace, name, model: "m")
                        _ = try await client.play(trace, Cuts([0, 60]), on: sequence)
                        guard let ids else { continue }
                        let tokens = TokenIDs(start: 0, ids: ids)
                        try await client.commit([
                            SequenceCommit(sequence: sequence.record.id, length: 60, tokens: tokens)
                        ])
                    }
                    _ = try await client.export("with", to: path)
                }
                try await cluster.tool.fails(
                    65, saying: ["Token 40"], ["sequence", "import", path, "--name", "other", "--resume"])
                try await cluster.tool.run("sequence", "import", path, "--name", "without", "--resume")
                try await cluster.withClient { client in
                    let sequence = try await client.openSequence("without", model: nil)
                    #expect(try await client.status(of: sequence).tokenIDs == 60)
                    #expect(try await client.tokenIDs(of: sequence.record.id, 0..<60) == ids)
                }
            }
        }

        @Test("impossible imports and exports are refused, and leave nothing behind")
        func refusals() async throws {
            let trace = Trace(try shape(layers: 2, 4, 2, 16, 16, .bfloat16), tokens: 80, salt: 3120)
            let other = Trace(trace.shape, tokens: 80, salt: 3121)
            try await ClusterSetup(ranks: 2).run { cluster in
                let directory = TemporaryDirectory()
                let path = directory.path("a.safetensors")
                try await cluster.withClient { client in
                    _ = try await client.play(trace, Cuts([0, 60]), on: client.open(trace, "a", model: "m"))
                    _ = try await client.play(other, Cuts([0, 30]), on: client.open(other, "b", model: "m"))
                    let c = Trace(try shape(layers: 2, 4, 2, 16, 8, .bfloat16), tokens: 4, salt: 1)
                    _ = try await client.open(c, "c", model: "another")
                }
                let tool = cluster.tool
                let missing = directory.path("missing.safetensors")
                try await tool.fails(65, saying: ["nobody"], ["sequence", "export", "nobody", missing])
                #expect(try FileManager.default.contentsOfDirectory(atPath: directory.path).isEmpty)
                #expect(try await tool.run("sequence", "export", "a", path).status == 0)
                for (words, arguments) in [
                    (["`a`", "60 tokens"], []), (["`b`", "30 tokens"], ["--name", "b"]),
                    (["not the beginning", "layer 0"], ["--name", "b", "--resume"]),
                    (["value dim: 16, not 8"], ["--name", "d", "--model", "another"]),
                ] as [([String], [String])] {
                    try await tool.fails(65, saying: words, ["sequence", "import", path] + arguments)
                }
                let trace = repositoryFile("Tests/Fixtures/smollm2-trace.safetensors")
                try await tool.fails(65, saying: ["`format`", "export"], ["sequence", "import", trace])
                let copy = try await tool.run("sequence", "import", path, "--name", "copy", "--json")
                #expect(copy.status == 0, "\(copy.messages)")
                try await cluster.withClient { client in
                    let sequence = try await client.openSequence("a", model: nil)
                    let before = try await client.rows(of: sequence, layer: 1, positions: 10..<50)
                    let copied = try await client.openSequence("copy", model: nil)
                    #expect(try await client.rows(of: copied, layer: 1, positions: 10..<50).keys == before.keys)
                    // In place of others, of the same size and of another.
                    var kept = CachedRows()
                    for (layer, positions) in [(0, 5..<45), (1, 0..<60), (0, 20..<60), (1, 10..<50)] {
                        try await client.rows(of: copied, layer: layer, positions: positions, into: &kept)
                        let fresh = try await client.rows(of: copied, layer: layer, positions: positions)
                        #expect(kept.keys == fresh.keys && kept.values == fresh.values && kept.version == fresh.version)
                    }
                    #expect(kept.keys == before.keys && kept.values == before.values)
                    // A cut between two answers: an export would not mix them.
                    try await client.cut("a", to: 55)
                    let after = try await client.rows(of: sequence, layer: 1, positions: 10..<50)
                    #expect(after.keys == before.keys && after.version != before.version)
                    let beyond = await #expect(throws: ServiceError.self) {
                        try await client.rows(of: sequence, layer: 1, positions: 10..<56)
                    }
                    #expect(beyond?.code == .positionMismatch)
                }
            }
        }

        @Test("an empty sequence moves too, and a damaged one does not")
        func edges() async throws {
            let trace = Trace(try shape(layers: 2, 4, 2, 16, 16, .bfloat16), tokens: 100, salt: 3130)
            let directory = TemporaryDirectory()
            let (empty, damaged) = (directory.path("empty.safetensors"), directory.path("damaged.safetensors"))
            try await ClusterSetup(ranks: 2).run { cluster in
                try await cluster.withClient { client in
                    _ = try await client.play(trace, Cuts([0, 100]), on: client.open(trace, "a", model: "m"))
                    _ = try await client.open(trace, "empty", model: "m")
                }
                #expect(try await cluster.tool.run("sequence", "export", "empty", empty).status == 0)
                let outcome = try await cluster.tool.run("sequence", "import", empty, "--name", "copy")
                #expect(outcome.status == 0 && outcome.data.contains("has 0 tokens"), "\(outcome)")
                try await StoreDamage(cluster, rank: 1).flip(
                    StoreDamage.block(writer: 1, layer: 0, index: 0), at: 100)
                try await cluster.tool.fails(
                    65, saying: ["Block 0 of layer 0"], ["sequence", "export", "a", damaged])
                #expect(try FileManager.default.contentsOfDirectory(atPath: directory.path) == ["empty.safetensors"])
            }
        }
    }
}
