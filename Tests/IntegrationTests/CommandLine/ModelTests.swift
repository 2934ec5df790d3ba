// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPSafetensors
import DCPTestKit
import Foundation
import Testing

extension Integration {
    @Suite("dcpctl: models")
    struct ModelTests {
        private static func fixture(_ path: String) -> String { repositoryFile("Tests/Fixtures/\(path)") }
        private static func config(_ name: String) -> String { fixture("model-configs/\(name).json") }

        /// Sinks of a model with the given number of layers, as a checkpoint has them.
        private static func writeSinks(layers: Int, heads: Int, to path: String) throws {
            let names = (0..<layers).map { "model.layers.\($0).self_attn.sinks" }
            let writer = try SafetensorsWriter(
                path: path, tensors: names.map { .init(name: $0, dataType: .float32, shape: [heads]) })
            for name in names {
                let logits = (0..<heads).map { Float($0) / 8 }
                try logits.withUnsafeBytes { try writer.append($0, to: name) }
            }
            try writer.finish()
        }

        @Test("model add --config: every family is registered, shown and listed, and adding it again changes nothing")
        func families() async throws {
            let served = [
                "deepseek_v2", "deepseek_v3", "falcon", "gemma2", "gemma3", "gemma3_text", "glm4", "gpt_bigcode",
                "gpt_oss",
                "llama", "mistral", "olmo3", "phi3", "qwen2", "qwen3", "qwen3_moe", "smollm3",
            ]
            try await ClusterSetup(ranks: 2).run { cluster in
                let (tool, sinks) = (cluster.tool, cluster.directory.path("sinks.safetensors"))
                try Self.writeSinks(layers: 36, heads: 64, to: sinks)
                for name in served {
                    let add =
                        ["model", "add", name, "--config", Self.config(name), "--revision", "r-\(name)"]
                        + (name == "gpt_oss" ? ["--sinks", sinks] : [])
                    let planned = try await tool.run(add + ["--dry-run", "--json"])
                    #expect(planned.status == 0, "\(planned.messages)")
                    let added = try await tool.run(add)
                    #expect(added.status == 0 && added.data.contains("Added model `\(name)`"), "\(added.messages)")
                    let again = try await tool.run(add)
                    #expect(again.status == 0 && again.data.contains("already registered"), "\(again.messages)")
                    let shown = try await tool.run("model", "show", name, "--json").object()
                    #expect(shown["revision"] as? String == "r-\(name)")
                    for key in ["pattern", "layers", "kv_format", "bytes_per_token"] {
                        let (a, b) = (shown[key].map { "\($0)" }, try planned.object()[key].map { "\($0)" })
                        #expect(a == b && a != nil, "\(name): \(key)")
                    }
                }
                let list = try await tool.run("model", "list", "--json").list()
                #expect(Set(list.compactMap { $0["name"] as? String }) == Set(served))
                let latent = try await tool.run("model", "show", "deepseek_v3")
                #expect(
                    latent.data.contains("61 layers") && latent.data.contains("keys of 576, values their first 512"))
                #expect(latent.data.contains("68.6 KiB per token"))
                for (name, words) in [
                    ("llama4_text", "chunked-local"), ("mamba", "state"), ("qwen3_next", "linear attention"),
                    ("gpt_oss", "--sinks"),
                ] {
                    try await tool.fails(65, saying: [words], ["model", "add", "x", "--config", Self.config(name)])
                }
                try await tool.fails(
                    65, saying: ["layers: 32, not 36"], ["model", "add", "smollm3", "--config", Self.config("llama")])
                try await tool.fails(
                    65, saying: ["layer 0, visibility: window of 4096 tokens, not all", "KV heads: 8, not 32"],
                    ["model", "add", "llama", "--config", Self.config("mistral")])
            }
        }

        @Test("--kv-format int8 and fp8: what a token takes, and layers that they cannot keep")
        func bytes() async throws {
            try await ClusterSetup(ranks: 1).run { cluster in
                for format in ["int8", "fp8"] {
                    let add = ["model", "add", "llama-\(format)", "--config", Self.config("llama"), "--kv-format"]
                    let added = try await cluster.tool.run(add + [format, "--json"])
                    #expect(added.status == 0, "\(added.messages)")
                    // 32 layers of 32 heads of 128, keys and values, with a scale of 4 bytes each, and int8 keys a word.
                    let beside = format == "int8" ? 12 : 8
                    #expect(try added.object()["kv_format"] as? String == format)
                    #expect(try added.object()["bytes_per_token"] as? Int == 32 * 32 * (2 * 128 + beside))
                    try await cluster.tool.fails(65, saying: ["cache format: f32, not \(format)"], add + ["f32"])
                    try await cluster.tool.fails(
                        65, saying: [format, "layer 0", "first 512 dimensions", "bf16, f16 or f32"],
                        ["model", "add", "x", "--config", Self.config("deepseek_v3"), "--kv-format", format])
                    let kind = "{query_heads: 4, kv_heads: 2, key_dim: 10}"
                    let odd = try Self.write(
                        "{kv_format: \(format), kinds: {k: \(kind)}, layers: [{kind: k}]}",
                        to: cluster.directory.path("odd.yaml"))
                    try await cluster.tool.fails(
                        65, saying: [format, "dimensions 10 and 10", "multiples of 4"],
                        ["model", "add", "x", "--model-file", odd])
                }
            }
        }

        @Test("another revision, and another model, are refused with both values wherever they are named")
        func revisions() async throws {
            let trace = Trace(try shape(layers: 2, 4, 2, 16, 8, .float32), tokens: 30, salt: 820)
            try await ClusterSetup(ranks: 2).run { cluster in
                let (tool, directory) = (cluster.tool, cluster.directory)
                let kind = "{query_heads: 4, kv_heads: 2, key_dim: 16, value_dim: 8}"
                func model(_ revision: String, _ kind: String) throws -> String {
                    try Self.write(
                        "{revision: \(revision), kv_format: f32, kinds: {k: \(kind)}, layers: [{kind: k, repeat: 2}]}",
                        to: directory.path("\(Fresh.name(revision)).yaml"))
                }
                let (file, a, b) = (directory.path("f.safetensors"), try model("rev-a", kind), try model("rev-b", kind))
                try trace.write(layer: nil, to: file)
                let both = ["`rev-a`", "`rev-b`"]

                #expect(try await tool.run("model", "add", "m", "--model-file", a).status == 0)
                try await tool.fails(65, saying: both, ["model", "add", "m", "--model-file", b])
                let submit = ["submit", file, "--model", "m", "--sequence", "s"]
                try await tool.fails(65, saying: both, submit + ["--model-file", b])
                try await tool.fails(65, saying: both, submit + ["--revision", "rev-b"])
                try await tool.fails(65, saying: both, submit + ["--revision", "rev-b", "--model-file", a])
                let sent = try await tool.run(submit + ["--model-file", a, "--json"])
                #expect(sent.status == 0, "\(sent.messages)")
                #expect(try sent.object()["committed_length"] as? Int == 30)

                // What contradicts the model file: the tensors, a flag, the metadata.
                let six = try model("rev-a", "{query_heads: 6, kv_heads: 2, key_dim: 16, value_dim: 8}")
                try await tool.fails(65, saying: ["query heads: 6, not 4"], submit + ["--model-file", six])
                try await tool.fails(
                    65, saying: ["window of 9 tokens", "not"], submit + ["--model-file", a, "--window", "9"])
                let told = directory.path("told.safetensors")
                try trace.write(layer: nil, to: told, metadata: ["layers.1.softcap": "7", "revision": "rev-a"])
                try await tool.fails(
                    65, saying: ["layer 1", "soft cap: none, not 7.0"],
                    ["submit", told, "--model", "m", "--model-file", a])

                try await cluster.withClient { client in
                    let error = await #expect(throws: ServiceError.self) {
                        try await client.openSequence("s", model: "m", revision: "rev-b")
                    }
                    #expect(error?.code == .modelMismatch)
                    for revision in both { #expect(error?.message.contains(revision) == true) }
                }
                try await tool.fails(65, saying: both, ["sequence", "fork", "s", "t", "9", "--revision", "rev-b"])
                let forked = try await tool.run("sequence", "fork", "s", "t", "9", "--revision", "rev-a")
                #expect(forked.status == 0, "\(forked.messages)")

                let exported = directory.path("s.safetensors")
                #expect(try await tool.run("sequence", "export", "s", exported).status == 0)
                #expect(try await tool.run("model", "add", "n", "--model-file", b).status == 0)
                try await tool.fails(
                    65, saying: both, ["sequence", "import", exported, "--name", "u", "--model", "n"])
                let imported = try await tool.run("sequence", "import", exported, "--name", "u", "--model", "m")
                #expect(imported.status == 0, "\(imported.messages)")
            }
        }

        @Test("a window of transformers is ours: its answer with --window, another's with one more")
        func window() async throws {
            let trace = Self.fixture("attention-kinds/mistral-window.safetensors")
            let expected = Self.fixture("attention-kinds/mistral-window-expected.safetensors")
            try await ClusterSetup(ranks: 3).run { cluster in
                func submit(_ name: String, _ options: [String]) -> [String] {
                    ["submit", trace, "--model", name, "--sequence", name, "--expect", expected, "--tolerance", "1e-4"]
                        + options
                }
                let same = try await cluster.tool.run(submit("same", ["--window", "48"]))
                #expect(same.status == 0, "\(same.messages)")
                for window in ["47", "49", "0"] {
                    let other = try await cluster.tool.run(submit("w-\(window)", ["--window", window]))
                    #expect(other.status == 65 && other.messages.contains("differs by up to"), "\(other.messages)")
                }
            }
        }

        @Test("--model-file tells which values are a part of the keys, and whose sinks they are")
        func parts() async throws {
            let expected = Self.fixture("attention-kinds/deepseek-v3-expected.safetensors")
            try await ClusterSetup(ranks: 2).run { cluster in
                let source = try SafetensorsFile.open(Self.fixture("attention-kinds/deepseek-v3.safetensors"))
                // The same tensors without a word of metadata.
                let plain = cluster.directory.path("plain.safetensors")
                let tensors = try ["q", "k"].map { try source.tensor(named: "layers.0.\($0)") }
                let writer = try SafetensorsWriter(
                    path: plain, tensors: tensors.map { .init(name: $0.name, dataType: .bfloat16, shape: $0.shape) })
                for tensor in tensors {
                    try tensor.withBytes { bytes throws(ServiceError) in try writer.append(bytes, to: tensor.name) }
                }
                try writer.finish()
                try await cluster.tool.fails(65, saying: ["layers.0.v"], ["submit", plain])
                let scale = try #require(source.metadata["layers.0.scale"])
                let (q, k) = (tensors[0].shape, tensors[1].shape)
                let model = try Self.write(
                    """
                    kinds:
                      latent: {query_heads: \(q[1]), kv_heads: \(k[1]), key_dim: \(k[2]), value_dim: 128, values: leading, scale: \(scale)}
                    layers: [{kind: latent}]
                    """, to: cluster.directory.path("latent.yaml"))
                let outcome = try await cluster.tool.run(
                    "submit", plain, "--model-file", model, "--expect", expected, "--tolerance", "1e-4")
                #expect(outcome.status == 0, "\(outcome.messages)")
                let own = try Self.write(
                    "{kinds: {k: {query_heads: \(q[1]), kv_heads: 1, key_dim: \(k[2])}}, layers: [{kind: k}]}",
                    to: cluster.directory.path("own.yaml"))
                try await cluster.tool.fails(65, saying: ["layers.0.v"], ["submit", plain, "--model-file", own])
            }
        }

        private static func write(_ text: String, to path: String) throws -> String {
            try Data(text.utf8).write(to: URL(filePath: path))
            return path
        }
    }
}
