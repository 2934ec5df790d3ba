// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPTestKit
import Foundation
import Glibc
import Testing

extension Integration {
    /// Files that are not what they should be: 65, the value and the remedy, and nothing has changed.
    @Suite("bad files")
    struct FileTests {
        private struct BadFile {
            var name: String
            var contents: Data
            var words: [String]
            var options: [String] = []
        }

        private static func file(_ tensors: String, bytes: Int, metadata: String = "") -> Data {
            safetensorsBytes("{\(metadata)\(tensors)}", data: [UInt8](repeating: 0, count: bytes))
        }

        /// `q` [2, Hq, 8], `k` [2, Hkv, 8], `v` [2, Hkv, 8] of f32, unless told otherwise.
        private static func shaped(
            q: String = "2,4,8", k: String = "2,2,8", v: String = "2,2,8", type: (String, Int) = ("F32", 4),
            valueType: (String, Int)? = nil, metadata: String = ""
        ) -> Data {
            var offset = 0
            var members: [String] = []
            for (name, shape) in [("q", q), ("k", k), ("v", v)] {
                let type = name == "v" ? valueType ?? type : type
                let size = shape.split(separator: ",").reduce(type.1) { $0 * (Int($1) ?? 0) }
                members.append(
                    "\"\(name)\":{\"dtype\":\"\(type.0)\",\"shape\":[\(shape)],"
                        + "\"data_offsets\":[\(offset),\(offset + size)]}")
                offset += size
            }
            return file(members.joined(separator: ","), bytes: offset, metadata: metadata)
        }

        /// `q` and `k` [1, 1, 8] of f32 in one layer.
        private static func layer(_ index: Int) -> String {
            ["q": "[0,32]", "k": "[32,64]"].sorted { $0.key > $1.key }.map { name, range in
                "\"layers.\(index).\(name)\":{\"dtype\":\"F32\",\"shape\":[1,1,8],\"data_offsets\":\(range)}"
            }.joined(separator: ",")
        }

        private static func stated(_ key: String, _ value: Int) -> String {
            "\"__metadata__\":{\"\(key)\":\"\(value)\"},"
        }

        private static func badFiles(good: Data) -> [BadFile] {
            let q = "\"q\":{\"dtype\":\"F32\",\"shape\":[2,4,8],\"data_offsets\":[0,"
            return [
                BadFile(name: "empty", contents: Data(), words: ["0 bytes"]),
                BadFile(name: "short", contents: good.prefix(20), words: ["truncated"]),
                BadFile(name: "truncated", contents: good.dropLast(10), words: ["truncated"]),
                BadFile(name: "oversized", contents: good + Data(repeating: 0, count: 10), words: ["7680", "7690"]),
                BadFile(
                    name: "length", contents: safetensorsBytes("{}", headerByteCount: 1 << 60),
                    words: ["1152921504606846976", "100000000"]),
                BadFile(name: "json", contents: safetensorsBytes("{\"q\":"), words: ["json"]),
                BadFile(name: "offsets", contents: file(q + "999999]}", bytes: 256), words: ["999999"]),
                BadFile(name: "lying", contents: file(q + "128]}", bytes: 128), words: ["128"]),
                BadFile(name: "none", contents: safetensorsBytes("{}"), words: ["q, k and v"]),
                BadFile(name: "only-q", contents: file(q + "256]}", bytes: 256), words: ["k"]),
                BadFile(name: "int", contents: shaped(type: ("I32", 4)), words: ["I32", "BF16"]),
                BadFile(
                    name: "mixed", contents: shaped(valueType: ("BF16", 2)), words: ["f32", "bf16", "one dtype"]),
                BadFile(name: "two-dims", contents: shaped(q: "2,32"), words: ["[2, 32]", "three dimensions"]),
                BadFile(name: "zero", contents: shaped(q: "0,4,8", k: "0,2,8", v: "0,2,8"), words: ["[0, 4, 8]"]),
                BadFile(name: "tokens", contents: shaped(k: "3,2,8"), words: ["[3, 2, 8]", "[2, 2, 8]"]),
                BadFile(name: "key-dim", contents: shaped(k: "2,2,10"), words: ["[2, 2, 10]", "[2, 2, 8]"]),
                BadFile(name: "v-heads", contents: shaped(v: "2,4,8"), words: ["[2, 4, 8]", "[2, 2, 8]"]),
                BadFile(
                    name: "ratio", contents: shaped(q: "2,5,8"), words: ["2 KV heads do not divide 5 query heads"]),
                BadFile(
                    name: "odd-dim", contents: shaped(q: "2,4,9", k: "2,2,9", v: "2,2,9"), words: ["9", "even"]),
                BadFile(
                    name: "groups", contents: shaped(q: "2,3,8", k: "2,3,8", v: "2,3,8"),
                    words: ["3 KV heads", "2 head groups"]),
                BadFile(
                    name: "stated", contents: shaped(metadata: "\"__metadata__\":{\"query_heads\":\"5\"},"),
                    words: ["query_heads 5", "the tensors have 4"]),
                BadFile(
                    name: "scale", contents: shaped(metadata: "\"__metadata__\":{\"scale\":\"big\"},"),
                    words: ["scale", "big", "not a number"]),
                BadFile(
                    name: "position", contents: shaped(metadata: "\"__metadata__\":{\"position\":\"-3\"},"),
                    words: ["position", "-3"]),
                BadFile(name: "prefill", contents: shaped(), words: ["3", "0...2"], options: ["--prefill", "3"]),
                BadFile(name: "chunk", contents: shaped(), words: ["chunk of 0"], options: ["--chunk", "0"]),
                BadFile(
                    name: "layer", contents: shaped(), words: ["layer 2", "0..<2"],
                    options: ["--layer", "2", "--layers", "2"]),
                BadFile(
                    name: "layer-one", contents: shaped(), words: ["layer 1"],
                    options: ["--layer", "1", "--layers", "1"]),
                BadFile(
                    name: "layer-last", contents: shaped(), words: ["layer \(Int.max)", "0..<1024", "--layer"],
                    options: ["--layer", "\(Int.max)"]),
                BadFile(
                    name: "layer-named", contents: file(layer(.max), bytes: 64), words: ["layer \(Int.max)", "names"]),
                BadFile(
                    name: "position-last", contents: shaped(metadata: stated("position", .max)),
                    words: ["2 tokens at position \(Int.max)", "0...281474976710656"], options: ["--continue"]),
                BadFile(
                    name: "value-dim", contents: file(layer(0), bytes: 64, metadata: stated("value_dim", 1 << 58)),
                    words: ["value_dim \(1 << 58)"]),
            ]
        }

        @Test("every bad file is refused with 65 before anything is changed")
        func files() async throws {
            let trace = Trace(try shape(4, 2, 8, 8, .float32), tokens: 40, salt: 600)
            try await ClusterSetup(ranks: 2, headGroups: 2).run { cluster in
                let (tool, directory) = (cluster.tool, cluster.directory)
                let good = directory.path("good.safetensors")
                try trace.write(0..<30, to: good)
                #expect(try await tool.run("submit", good, "--sequence", "s", "--model", "m").status == 0)
                for bad in Self.badFiles(good: try Data(contentsOf: URL(filePath: good))) {
                    let path = directory.path("\(bad.name).safetensors")
                    try bad.contents.write(to: URL(filePath: path))
                    let output = directory.path("\(bad.name).out")
                    try await tool.fails(
                        65, saying: bad.words,
                        ["submit", path, "--sequence", "s", "--model", "new", "--output", output] + bad.options)
                    #expect(!FileManager.default.fileExists(atPath: output), "\(bad.name)")
                }
                for path in ["/nonexistent/f.safetensors", directory.path] {
                    try await tool.fails(65, saying: [path], ["submit", path])
                }
                let models = try await tool.run("model", "list", "--json").list().compactMap { $0["name"] as? String }
                #expect(models == ["m"])
                try await expectUnchanged(trace, cluster)
            }
        }

        /// A pipe would be waited for, and a device need not end: the limit ends the test that waits.
        @Test(
            "each command that reads a file refuses anything but a regular file, and names its kind",
            .timeLimit(.minutes(2)),
            arguments: [
                (65, "model add m --dry-run --config FILE"), (65, "model add m --dry-run --model-file FILE"),
                (65, "model add m --dry-run --config CONFIG --sinks FILE"), (65, "submit FILE"),
                (65, "submit GOOD --model-file FILE"), (65, "submit GOOD --expect FILE"),
                (65, "certs show FILE"), (64, "status --tls-ca FILE --tls-certificate FILE --tls-key FILE"),
                (78, "dcp-rank --rank 0 --config FILE"), (78, "dcp-coordinator --config FILE"),
            ])
        func irregular(status: Int32, command: String) async throws {
            let directory = TemporaryDirectory()
            let (pipe, good) = (directory.path("pipe"), directory.path("good.safetensors"))
            #expect(mkfifo(pipe, 0o600) == 0)
            try Trace(try shape(4, 2, 8, 8, .float32), tokens: 4, salt: 605).write(to: good)
            for (path, kind) in [(pipe, "a pipe"), (directory.path, "a directory"), ("/dev/zero", "a device")] {
                // A directory of certificates is one.
                if command.hasPrefix("certs"), path == directory.path { continue }
                var words = command.split(separator: " ").map {
                    switch $0 {
                    case "FILE": path
                    case "GOOD": good
                    case "CONFIG": repositoryFile("Tests/Fixtures/model-configs/gpt_oss.json")
                    default: String($0)
                    }
                }
                var tool = CommandLineTool(coordinator: "tcp:localhost:1")
                if command.hasPrefix("dcp-") { tool.executable = words.removeFirst() }
                try await tool.fails(status, saying: ["\(path) is \(kind), not a regular file"], words)
            }
        }

        @Test("NaN and infinity are refused with their tensor and index, by the tool and by the ranks")
        func notFinite() async throws {
            let trace = Trace(try shape(4, 2, 8, 8, .float32), tokens: 40, salt: 601)
            try await ClusterSetup(ranks: 2, headGroups: 2).run { cluster in
                let good = cluster.directory.path("good.safetensors")
                try trace.write(0..<30, to: good)
                let submit = ["submit", "--sequence", "s", "--model", "m"]
                #expect(try await cluster.tool.run(submit + [good]).status == 0)
                for (value, name) in [(Float.nan, "NaN"), (.infinity, "infinity"), (-.infinity, "-infinity")] {
                    for (field, path) in [("q", \Trace.Layer.queries), ("k", \.keys), ("v", \.values)] {
                        var bad = trace
                        let heads = field == "q" ? 4 : 2
                        // Token 33 of the trace is token 3 of the file.
                        bad.layers[0][keyPath: path][(33 * heads + 1) * 8 + 5] = value
                        let file = cluster.directory.path("bad.safetensors")
                        try bad.write(30..<40, to: file)
                        try await cluster.tool.fails(
                            65, saying: ["\(field)[3, 1, 5] is \(name)"], submit + [file])
                        // Without the tool's check the client sees it.
                        try await cluster.withClient { client in
                            let sequence = try await client.openSequence("s", model: nil)
                            let error = await #expect(throws: ServiceError.self) {
                                try await client.step(bad, 30..<40, on: sequence)
                            }
                            #expect(error?.code == .invalidRequest, "\(String(describing: error))")
                            #expect(try await client.resume(sequence).layerLengths == [30])
                        }
                    }
                }
                try await expectUnchanged(trace, cluster)
            }
        }

        @Test("a value beyond f16 is refused by an f16 cache with a clear error; the sequence stays usable")
        func overflow() async throws {
            let trace = Trace(try shape(4, 2, 8, 8, .float16), tokens: 40, salt: 602)
            try await ClusterSetup(ranks: 3).run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s", model: "m")
                    var answer = Answer(try await client.step(trace, 0..<30, on: sequence))
                    for token in 30..<33 {
                        var bad = trace
                        bad.layers[0].keys[token * 2 * 8] = 1e6
                        let error = await #expect(throws: ServiceError.self) {
                            try await client.step(bad, 30..<33, on: sequence)
                        }
                        #expect(error?.code == .invalidRequest && error?.message.contains("f16") == true)
                        #expect(try await client.resume(sequence).layerLengths == [30])
                        let file = cluster.directory.path("bad.safetensors")
                        try bad.write(0..<33, to: file)
                        try await cluster.tool.fails(
                            65, saying: ["f16"], ["submit", file, "--model", "m", "--sequence", "t\(token)"])
                    }
                    answer.append(try await client.step(trace, 30..<40, on: sequence))
                    trace.check([answer], "after the overflows")
                }
            }
        }

        @Test("a model that differs from the registered one is refused with every difference")
        func model() async throws {
            let directory = TemporaryDirectory()
            let path = directory.path("f.safetensors")
            try Trace(try shape(4, 2, 8, 8, .float32), tokens: 4, salt: 603).write(to: path)
            let other = directory.path("other.safetensors")
            try Trace(try shape(6, 2, 16, 8, .float32), tokens: 4, salt: 604).write(to: other)
            try await ClusterSetup(ranks: 2).run { cluster in
                let submit = ["submit", "--model", "m", "--sequence", "s"]
                #expect(try await cluster.tool.run(submit + [path]).status == 0)
                try await cluster.tool.fails(
                    65, saying: ["query heads: 6, not 4", "key dim: 16, not 8", "model remove m"], submit + [other])
                for (option, words) in [
                    (["--softcap", "30"], "soft cap: 30.0, not none"), (["--scale", "0.5"], "scale: 0.5, not"),
                    (["--kv-format", "bf16"], "cache format: bf16, not f32"), (["--layers", "3"], "layers: 3, not 1"),
                ] {
                    try await cluster.tool.fails(65, saying: [words], submit + [path] + option)
                }
                try await cluster.tool.fails(
                    65, saying: ["`m`", "`m2`"], ["submit", "--model", "m2", "--sequence", "s", path])
                let show = try await cluster.tool.run("sequence", "show", "s", "--json").object()
                #expect(show["committed_length"] as? Int == 4)
                #expect(try await cluster.tool.run(submit + [path]).status == 0)
            }
        }

        /// The sequence `s` has the trace's first 30 tokens and goes on with the rest.
        private func expectUnchanged(_ trace: Trace, _ cluster: TestCluster) async throws {
            let show = try await cluster.tool.run("sequence", "show", "s", "--json").object()
            #expect(show["committed_length"] as? Int == 30 && show["layer_lengths"] as? [Int] == [30])
            let (rest, output) = (cluster.directory.path("rest.safetensors"), cluster.directory.path("rest.out"))
            try trace.write(30..<40, to: rest)
            let outcome = try await cluster.tool.run(
                "submit", rest, "--sequence", "s", "--model", "m", "--output", output)
            #expect(outcome.status == 0, "\(outcome.messages)")
            trace.check(try Answer(file: output), 30..<40, "the rest of a sequence after bad input")
        }
    }
}
