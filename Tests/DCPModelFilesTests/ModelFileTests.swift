// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPModelFiles
import DCPSafetensors
import DCPTestKit
import Foundation
import Testing

@Suite("model: a file that describes it")
struct ModelFileTests {
    private let directory: TemporaryDirectory

    init() { directory = TemporaryDirectory() }

    private static let gemma = """
        # Five layers of six see a window.
        revision: sha256:41c8
        kv_format: f16
        kinds:
          local: {query_heads: 8, kv_heads: 4, key_dim: 96, value_dim: 64, scale: 0.0625, softcap: 50, window: 1024}
          global:
            query_heads: 8
            kv_heads: 4
            key_dim: 96
        layers:
          - repeat: 4
            layers: [{kind: local, repeat: 5}, {kind: global}]
          - {kind: local, repeat: 2}
        """

    private func description(
        _ text: String, _ source: (inout ModelSource) -> Void = { _ in }
    ) throws -> ModelDescription {
        let path = directory.path("model.yaml")
        try Data(text.utf8).write(to: URL(filePath: path))
        var described = ModelSource(.modelFile(path))
        source(&described)
        return try described.description()
    }

    private func expectRefusal(
        _ text: String, saying words: [String], _ source: (inout ModelSource) -> Void = { _ in },
        sourceLocation: SourceLocation = #_sourceLocation
    ) {
        let error = #expect(throws: ServiceError.self, sourceLocation: sourceLocation) {
            try description(text, source)
        }
        #expect(error?.code == .invalidModel, sourceLocation: sourceLocation)
        for word in words + ["model.yaml"] {
            #expect(
                error?.message.contains(word) == true, "\(word): \(error?.message ?? "")",
                sourceLocation: sourceLocation)
        }
    }

    @Test("kinds, and runs of them in runs; defaults of what is left out")
    func kinds() throws {
        let model = try description(Self.gemma)
        #expect(model.pattern == "4 x (5 x window of 1024 tokens, 1 x all), 2 x window of 1024 tokens")
        #expect(model.revision == "sha256:41c8" && model.kvFormat == .float16)
        #expect(
            model.kinds == [
                try LayerAttention(
                    queryHeads: 8, kvHeads: 4, keyDim: 96, values: .own(64), scale: 0.0625, softcap: 50,
                    visibility: .window(1024)),
                try LayerAttention(
                    queryHeads: 8, kvHeads: 4, keyDim: 96, values: .own(96),
                    scale: LayerAttention.defaultScale(keyDim: 96)),
            ])
    }

    @Test("the same in JSON, with latent attention, and bf16 where nothing is said")
    func json() throws {
        let model = try description(
            """
            {"kinds": {"latent": {"query_heads": 16, "kv_heads": 1, "key_dim": 576, "value_dim": 512, "values": "leading"}},
            \t"layers": [{"kind": "latent", "repeat": 27}]}
            """)
        #expect(model.layers == 27 && model[26].values == .leading(512) && model.kvFormat == .bfloat16)
        #expect(model.revision == nil)
    }

    @Test("JSON may escape any character, as two halves of a pair where it is beyond 16 bits")
    func surrogates() throws {
        func json(_ revision: String) -> String {
            """
            {"revision": "\(revision)", "kinds": {"k": {"query_heads": 1, "kv_heads": 1, "key_dim": 8}},
            "layers": [{"kind": "k"}]}
            """
        }
        #expect(try description(json(#"a\/\ud83d\ude00\uD83D\uDE00"#)).revision == "a/\u{1F600}\u{1F600}")
        #expect(try description(json(#"\\ud83d\\ude00"#)).revision == #"\ud83d\ude00"#)
        expectRefusal(json(#"\ud83d"#), saying: ["neither YAML nor JSON"])
    }

    @Test("sinks: from the file, or beside it, for each layer of a kind that has them")
    func sinks() throws {
        let text = """
            kinds:
              sunk: {query_heads: 2, kv_heads: 1, key_dim: 64, sinks: true}
              plain: {query_heads: 2, kv_heads: 1, key_dim: 64}
            layers: [{kind: sunk}, {kind: plain}, {kind: sunk}]
            """
        let sinks = "\nsinks: {0: [0.5, -1], 2: [2, 3e0]}\n"
        #expect(try description(text + sinks).sinks == [[0.5, -1], [], [2, 3]])

        let path = directory.path("sinks.safetensors")
        let writer = try SafetensorsWriter(
            path: path,
            tensors: [0, 2].map { .init(name: "layers.\($0).sinks", dataType: .float32, shape: [2]) })
        for layer in [0, 2] {
            try [Float(layer), 7].withUnsafeBytes { try writer.append($0, to: "layers.\(layer).sinks") }
        }
        try writer.finish()
        #expect(try description(text) { $0.sinks = [path] }.sinks == [[0, 7], [], [2, 7]])

        expectRefusal(text, saying: ["layer 0", "--sinks"])
        expectRefusal(text + sinks, saying: ["`sinks.0`", "omit one"]) { $0.sinks = [path] }
        expectRefusal(text + "\nsinks: {0: [1, 2], 1: [1, 2], 2: [1, 2]}", saying: ["no layer 1 with sinks"])
        expectRefusal(text + "\nsinks: {0: [1], 2: [1, 2]}", saying: ["Layer 0 has 1 sinks"])
        expectRefusal(text + "\nsinks: {0: [1, .inf], 2: [1, 2]}", saying: ["`sinks.0`", "`.inf`"])
        expectRefusal(text + "\nsinks: {first: [1, 2]}", saying: [":5:", "`sinks.first`", "number of a layer"])
        expectRefusal(text + "\nsinks: {00: [1, 2]}", saying: [":5:", "`sinks.00`", "number of a layer"])
        expectRefusal(text + "\nsinks: {0: [1, 1], \"0\": [2, 2]}", saying: [":5:", "`0` is given twice in `sinks`"])
    }

    @Test("the command line must not contradict the file")
    func contradictions() throws {
        #expect(try description(Self.gemma) { $0.revision = "sha256:41c8" }.revision == "sha256:41c8")
        expectRefusal(Self.gemma, saying: ["`revision`", "`sha256:41c8`", "`b`"]) { $0.revision = "b" }
        expectRefusal(Self.gemma, saying: ["`kv_format`", "f16", "f32"]) { $0.kvFormat = .float32 }
    }

    @Test(
        "errors have line, key path, value and remedy",
        arguments: [
            ("query_heads: 8, ", "query_heads: eight, ", [":5:", "`kinds.local.query_heads`", "`eight`", "1...1024"]),
            ("query_heads: 8, ", "query_heads: 2000, ", [":5:", "`2000`", "1...1024"]),
            ("query_heads: 8, ", "query_heads: 8.0, ", ["`8.0`"]),
            ("query_heads: 8, ", "", [":5:", "`kinds.local.query_heads` is missing"]),
            ("window: 1024", "windw: 1024", ["`kinds.local.windw`", "write `window`"]),
            ("window: 1024", "window: 4294967296", ["`4294967296`", "4294967295"]),
            ("window: 1024", "window: ", ["`kinds.local.window` has no value"]),
            ("softcap: 50", "softcap: [50]", ["`kinds.local.softcap`", "not a number"]),
            ("softcap: 50", "softcap: -50", [":5:", "`kinds.local`", "-50.0"]),
            ("scale: 0.0625", "scale: 1e300", ["`kinds.local`", "inf"]),
            ("kv_heads: 4, ", "kv_heads: 3, ", [":5:", "3 KV heads do not divide 8"]),
            ("value_dim: 64", "values: leading", ["`kinds.local.value_dim` is missing"]),
            ("value_dim: 64", "values: keys", ["`keys`", "write own"]),
            ("value_dim: 64", "value_dim: 98, values: leading", ["first 98", "have 96"]),
            ("kv_format: f16", "kv_format: int4", [":3:", "`int4`", "int8 or fp8"]),
            ("kv_format: f16", "revision: b", ["duplicate key", "revision"]),
            ("kind: global", "kind: globl", [":12:", "`layers[0].layers[1].kind`", "write `global`"]),
            ("kind: global", "kind: global, layers: []", ["one of the two"]),
            ("kind: global", "", ["`layers[0].layers[1].kind`"]),
            ("repeat: 4", "repeat: 400", [":11:", "`layers[0].repeat`", "2400 layers", "1024"]),
            ("repeat: 4", "repeat: 0", ["`0`", "1...1024"]), ("layers:\n", "layrs:\n", ["`layrs`", "write `layers`"]),
            ("revision: sha256:41c8", "revision: \(String(repeating: "r", count: 256))", ["256 bytes", "255"]),
            ("kinds:", "kinds: [", ["neither YAML nor JSON"]),
            ("revision: sha256:41c8", "revision: [1]", ["`revision`"]),
        ] as [(String, String, [String])])
    func mistakes(part: String, mistake: String, words: [String]) throws {
        let range = try #require(Self.gemma.range(of: part))
        expectRefusal(Self.gemma.replacingCharacters(in: range, with: mistake), saying: words)
    }

    @Test("files that are none, too large, or nested without end")
    func bounds() throws {
        expectRefusal("", saying: ["no keys"])
        expectRefusal("- a", saying: ["no keys"])
        expectRefusal(String(repeating: "#", count: 1 << 20 | 1), saying: ["1048576 bytes"])
        expectRefusal(
            String(repeating: "{a: ", count: 5000) + "1" + String(repeating: "}", count: 5000),
            saying: ["neither YAML nor JSON"])
        let kinds = "kinds: {k: {query_heads: 1, kv_heads: 1, key_dim: 8}}\nlayers: "
        func nested(_ depth: Int) -> String {
            (1..<depth).reduce("[{kind: k}]") { text, _ in "[{layers: \(text), repeat: 2}]" }
        }
        #expect(try description(kinds + nested(4)).layers == 8)
        expectRefusal(kinds + nested(5), saying: ["deeper than 4"])
        // Aliases make a short file long without end.
        let doubled = (1..<40).map { "a\($0): &a\($0) [*a\($0 - 1), *a\($0 - 1)]\n" }.joined()
        expectRefusal("a0: &a0 [x, x]\n\(doubled)? *a39\n: 1\n", saying: [":2 ", "alias"])
        expectRefusal(kinds + "*a", saying: [":2 ", "alias"])
        #expect(try description("revision: R&D *a\n" + kinds + nested(1)).revision == "R&D *a")
        let error = #expect(throws: ServiceError.self) {
            try ModelSource(.modelFile(directory.path("absent"))).description()
        }
        #expect(error?.message.contains("cannot be read") == true)
    }
}
