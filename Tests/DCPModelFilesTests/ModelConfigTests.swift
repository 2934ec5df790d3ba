// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPModelFiles
import DCPSafetensors
import DCPTestKit
import Foundation
import Testing

@Suite("model: config.json")
struct ModelConfigTests {
    private let directory: TemporaryDirectory

    init() { directory = TemporaryDirectory() }

    private static func config(_ name: String) -> String {
        repositoryFile("Tests/Fixtures/model-configs/\(name).json")
    }

    /// A family's config.json with some keys changed, or taken out by nil.
    func description(
        _ name: String, _ changes: [String: (any Sendable)?] = [:], text: [String: (any Sendable)?] = [:],
        _ source: (inout ModelSource) -> Void = { _ in }
    ) throws -> ModelDescription {
        let data = try Data(contentsOf: URL(filePath: Self.config(name)))
        var object = try #require(JSONSerialization.jsonObject(with: data) as? [String: Any])
        for (key, value) in changes { object[key] = value }
        if !text.isEmpty {
            var nested = try #require(object["text_config"] as? [String: Any])
            for (key, value) in text { nested[key] = value }
            object["text_config"] = nested
        }
        let path = directory.path("config.json")
        try JSONSerialization.data(withJSONObject: object, options: .prettyPrinted).write(to: URL(filePath: path))
        var described = ModelSource(.config(path))
        source(&described)
        return try described.description()
    }

    /// - Returns: the message, which names the file.
    func refusal(
        _ name: String, _ changes: [String: (any Sendable)?] = [:], text: [String: (any Sendable)?] = [:]
    ) throws -> String {
        let error = try #require(throws: ServiceError.self) { try description(name, changes, text: text) }
        #expect(error.code == .invalidModel)
        #expect(error.message.contains("config.json"))
        return error.message
    }

    /// The sinks of a checkpoint's layers: 100 times the layer, and the head.
    func writeSinks(_ name: String, _ layers: Range<Int>, heads: Int = 64) throws -> String {
        let path = directory.path(name)
        let writer = try SafetensorsWriter(
            path: path,
            tensors: layers.map {
                .init(name: "model.layers.\($0).self_attn.sinks", dataType: .float32, shape: [heads])
            })
        for layer in layers {
            let logits = (0..<heads).map { Float(layer * 100 + $0) }
            try logits.withUnsafeBytes { try writer.append($0, to: "model.layers.\(layer).self_attn.sinks") }
        }
        try writer.finish()
        return path
    }

    private static let local = "window of 4096 tokens"

    @Test(
        "each family's default: the order of its layers, and their kinds",
        arguments: [
            (
                "deepseek_v2", "32 x all",
                ["32 query heads on 1 KV head, keys of 576, values their first 512, scale 0.07216878, all tokens"]
            ),
            (
                "deepseek_v3", "61 x all",
                ["128 query heads on 1 KV head, keys of 576, values their first 512, scale 0.07216878, all tokens"]
            ),
            ("falcon", "32 x all", ["71 query heads on 1 KV head, dims 64 and 64, scale 0.125, all tokens"]),
            (
                "gemma2", "13 x (1 x \(local), 1 x all)",
                ["\(local)", "all tokens"].map {
                    "8 query heads on 4 KV heads, dims 256 and 256, scale 0.0625, soft cap 50.0, \($0)"
                }
            ),
            (
                "gemma3", "4 x (5 x \(local), 1 x all), 2 x \(local)",
                ["\(local)", "all tokens"].map { "8 query heads on 4 KV heads, dims 256 and 256, scale 0.0625, \($0)" }
            ),
            (
                "gemma3_text", "4 x (5 x \(local), 1 x all), 2 x \(local)",
                ["\(local)", "all tokens"].map { "8 query heads on 4 KV heads, dims 256 and 256, scale 0.0625, \($0)" }
            ),
            ("glm4", "40 x all", ["32 query heads on 2 KV heads, dims 128 and 128, scale 0.088388346, all tokens"]),
            ("gpt_bigcode", "12 x all", ["12 query heads on 1 KV head, dims 64 and 64, scale 0.125, all tokens"]),
            ("llama", "32 x all", ["32 query heads on 32 KV heads, dims 128 and 128, scale 0.088388346, all tokens"]),
            (
                "mistral", "32 x \(local)",
                ["32 query heads on 8 KV heads, dims 128 and 128, scale 0.088388346, \(local)"]
            ),
            (
                "olmo3", "8 x (3 x \(local), 1 x all)",
                ["\(local)", "all tokens"].map {
                    "32 query heads on 32 KV heads, dims 128 and 128, scale 0.088388346, \($0)"
                }
            ),
            ("phi3", "32 x all", ["32 query heads on 32 KV heads, dims 96 and 96, scale 0.10206208, all tokens"]),
            ("qwen2", "32 x all", ["32 query heads on 32 KV heads, dims 128 and 128, scale 0.088388346, all tokens"]),
            ("qwen3", "32 x all", ["32 query heads on 32 KV heads, dims 128 and 128, scale 0.088388346, all tokens"]),
            ("qwen3_moe", "24 x all", ["32 query heads on 4 KV heads, dims 64 and 64, scale 0.125, all tokens"]),
            ("smollm3", "36 x all", ["16 query heads on 4 KV heads, dims 128 and 128, scale 0.088388346, all tokens"]),
        ])
    func families(name: String, pattern: String, kinds: [String]) throws {
        let model = try ModelSource(.config(Self.config(name))).description()
        #expect(model.pattern == pattern)
        #expect(model.kinds.map(\.description) == kinds)
        #expect(model.kvFormat == .bfloat16 && model.revision == nil)
    }

    @Test("gpt_oss: sinks come from a checkpoint's files, and without them it is refused with that remedy")
    func sinks() throws {
        let refused = try refusal("gpt_oss")
        #expect(refused.contains("--sinks") && refused.contains("model.layers.0.self_attn.sinks"))
        // As of a checkpoint in two files.
        let files = [try writeSinks("a", 0..<20), try writeSinks("b", 20..<36)]
        let model = try description("gpt_oss") { $0.sinks = files }
        #expect(model.pattern == "18 x (1 x window of 128 tokens, 1 x all)")
        #expect(
            model.kinds.map(\.description)
                == ["window of 128 tokens", "all tokens"].map {
                    "64 query heads on 8 KV heads, dims 64 and 64, scale 0.125, \($0), a sink for each query head"
                })
        #expect(model.sinks[35] == (0..<64).map { Float(3500 + $0) })
        // One file lacks the other's layers; another model's have another shape; a model without sinks takes none.
        let other = try writeSinks("c", 0..<36, heads: 32)
        for (sinks, words) in [([files[0]], "layer 20"), ([other], "[32]")] {
            let error = #expect(throws: ServiceError.self) { try description("gpt_oss") { $0.sinks = sinks } }
            #expect(error?.message.contains(words) == true)
        }
        let error = #expect(throws: ServiceError.self) { try description("llama") { $0.sinks = files } }
        #expect(error?.message.contains("omit --sinks") == true)
    }

    @Test("models that cannot be served are refused by name, with the reason")
    func refusals() throws {
        #expect(try refusal("llama4_text").contains("chunked-local"))
        #expect(try refusal("mamba").contains("state"))
        #expect(try refusal("qwen3_next").contains("linear attention"))
        #expect(try refusal("falcon", ["alibi": true]).contains("ALiBi"))
        #expect(try refusal("llama", ["model_type": "bloom"]).contains("ALiBi"))
        let unknown = try refusal("llama", ["model_type": "llama7"])
        #expect(unknown.contains("`llama7`") && unknown.contains("qwen3_moe") && unknown.contains("--model-file"))
        #expect(try refusal("gemma3_text", ["use_bidirectional_attention": true]).contains("after their own"))
        #expect(try refusal("gemma3_text", ["attn_logit_softcapping": 30]).contains("30.0"))
        #expect(
            try refusal("qwen3", ["layer_types": Array(repeating: "linear_attention", count: 32)])
                .contains("`linear_attention` at layer 0"))
    }

    @Test("windows as each family's own code decides them, where the file does not list them")
    func windows() throws {
        let unlisted: [String: (any Sendable)?] = ["layer_types": nil]
        #expect(try description("gemma2", unlisted).pattern == "13 x (1 x \(Self.local), 1 x all)")
        #expect(try description("olmo3", unlisted).pattern == "8 x (3 x \(Self.local), 1 x all)")
        let gemma = "4 x (5 x \(Self.local), 1 x all), 2 x \(Self.local)"
        #expect(try description("gemma3", text: ["layer_types": nil, "_sliding_window_pattern": 13]).pattern == gemma)
        #expect(
            try description("gemma3_text", ["layer_types": nil, "sliding_window_pattern": 13]).pattern
                == "2 x (12 x \(Self.local), 1 x all)")

        let qwen: [String: (any Sendable)?] = ["layer_types": nil, "sliding_window": 100, "max_window_layers": 30]
        #expect(try description("qwen2", qwen).pattern == "32 x all")
        let switched = qwen.merging(["use_sliding_window": true]) { $1 }
        for family in ["qwen2", "qwen3"] {
            #expect(try description(family, switched).pattern == "30 x all, 2 x window of 100 tokens")
        }
        #expect(try description("qwen3_moe", switched).pattern == "24 x window of 100 tokens")
        #expect(try description("phi3", ["sliding_window": 2047]).pattern == "32 x window of 2047 tokens")
        #expect(try description("mistral", ["sliding_window": nil]).pattern == "32 x \(Self.local)")
        #expect(try description("mistral", ["sliding_window": NSNull()]).pattern == "32 x all")
        for family in ["gemma2", "gemma3_text", "olmo3"] {
            let windowless = unlisted.merging(["sliding_window": NSNull()]) { $1 }
            #expect(try refusal(family, windowless).contains("layer 0 has a window"))
        }
        #expect(try description("llama", ["sliding_window": 100]).pattern == "32 x all")
        // Layers without a rotary embedding have the window.
        #expect(
            try description("smollm3", switched).pattern == "9 x (3 x all, 1 x window of 100 tokens)")
        let short = switched.merging(["no_rope_layers": [0, 1]]) { $1 }
        #expect(try refusal("smollm3", short).contains("2 items for 36 layers"))
    }

    @Test("scales: of another number than the head's, of a model that has none, and YaRN's in latent attention")
    func scales() throws {
        #expect(try description("gemma2", ["query_pre_attn_scalar": 144])[0].scale == Float(1.0 / 12))
        #expect(try description("gpt_bigcode", ["scale_attn_weights": false])[0].scale == 1)
        // DeepSeek-V3's own settings: mscale is 0.1 ln 40 + 1.
        let yarn: [String: any Sendable] = [
            "rope_type": "yarn", "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
        ]
        let expected = Float(1.3688879454113936 * 1.3688879454113936 / 192.0.squareRoot())
        #expect(try description("deepseek_v3", ["rope_parameters": yarn])[0].scale == expected)
        let old = yarn.merging(["type": "yarn"]) { $1 }.filter { $0.key != "rope_type" }
        #expect(try description("deepseek_v2", ["rope_parameters": nil, "rope_scaling": old])[0].scale == expected)
        // A file with both is taken by its old key.
        let scaled: [String: any Sendable] = ["rope_parameters": ["rope_type": "default"], "rope_scaling": old]
        #expect(try description("deepseek_v3", scaled)[0].scale == expected)
        let plain = yarn.filter { $0.key != "mscale_all_dim" }
        #expect(try description("deepseek_v3", ["rope_parameters": plain])[0].scale == Float(1 / 192.0.squareRoot()))
    }

    @Test("shapes: keys that are missing, heads of other families, the dtype of the weights")
    func shapes() throws {
        // As Gemma 3's 4B is published: its text_config holds what differs from the class.
        let gemma = try description(
            "gemma3",
            text: [
                "num_attention_heads": nil, "num_key_value_heads": nil, "head_dim": nil, "query_pre_attn_scalar": nil,
                "layer_types": nil, "hidden_size": 2560, "num_hidden_layers": 34, "sliding_window": 1024,
            ])
        #expect(gemma.pattern == "5 x (5 x window of 1024 tokens, 1 x all), 4 x window of 1024 tokens")
        #expect(gemma[0].queryHeads == 8 && gemma[0].kvHeads == 4 && gemma[0].keyDim == 256 && gemma[0].scale == 0.0625)

        let llama = try description("llama", ["head_dim": nil, "num_key_value_heads": nil, "torch_dtype": "float16"])
        #expect(llama[0].keyDim == 128 && llama[0].kvHeads == 32 && llama.kvFormat == .float16)
        #expect(
            try description("llama", ["torch_dtype": "float16"]) { $0.kvFormat = .float32 }.kvFormat == .float32)
        #expect(try description("llama") { $0.revision = "r1" }.revision == "r1")
        #expect(try description("gpt_bigcode", ["multi_query": false])[0].kvHeads == 12)
        let falcon = try description(
            "falcon",
            ["new_decoder_architecture": true, "num_kv_heads": 8, "num_attention_heads": 128, "hidden_size": 8192])
        #expect(falcon[0].kvHeads == 8 && falcon[0].queryHeads == 128 && falcon[0].keyDim == 64)
    }

    @Test(
        "errors have the key, its value and the remedy",
        arguments: [
            ("num_hidden_layers", "many", "`many`, not a whole number in 1...1024"),
            ("num_hidden_layers", nil, "missing; give the number of layers"), ("num_attention_heads", 0, "`0`"),
            ("num_key_value_heads", 5, "5 KV heads do not divide 32"), ("head_dim", 127, "127"),
            ("head_dim", "128", "`128`"), ("sliding_window", 0, "`0`"), ("num_attention_heads", 32.5, "`32.5`"),
            ("layer_types", ["full_attention"], "1 items for 32 layers"), ("use_sliding_window", 1, "`1`, not true"),
            ("layer_types", Array(repeating: "sliding_attention", count: 32), "layer 0 has a window"),
            ("model_type", nil, "model_type"),
        ] as [(String, (any Sendable)?, String)])
    func mistakes(key: String, value: (any Sendable)?, words: String) throws {
        var changes: [String: (any Sendable)?] = ["use_sliding_window": key == "sliding_window"]
        changes.updateValue(value, forKey: key)
        let message = try refusal("qwen3", changes)
        #expect(message.contains(words), "\(message)")
    }
}
