// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPModelFiles
import Foundation
import Testing

extension ModelConfigTests {
    /// A key that a file may lack.
    struct Missing: Sendable, CustomTestStringConvertible {
        var family: String
        var key: String
        /// What the family's class has; null is none.
        var value: any Sendable
        /// What makes another model, or none that is served.
        var other: any Sendable
        /// With which the key counts.
        var changes: [String: (any Sendable)?]

        init(
            _ family: String, _ key: String, _ value: any Sendable, not other: any Sendable,
            _ changes: [String: (any Sendable)?] = [:]
        ) {
            (self.family, self.key, self.value, self.other, self.changes) = (family, key, value, other, changes)
        }

        var testDescription: String { "\(family): \(key)" }
    }

    private static let none = NSNull()
    private static let unlisted: [String: (any Sendable)?] = ["layer_types": nil]
    /// With a window where the family has one.
    private static let switched: [String: (any Sendable)?] = [
        "layer_types": nil, "use_sliding_window": true, "sliding_window": 100,
    ]
    private static let yarn: [String: any Sendable] = ["rope_type": "yarn", "factor": 40, "mscale_all_dim": 1.0]

    /// Read off instances of transformers' configuration classes, release 5.24.0, and off its models' code where a class lacks
    /// the key.
    static let missing: [Missing] = [
        Missing("deepseek_v2", "rope_parameters", none, not: yarn),
        Missing("deepseek_v3", "rope_parameters", none, not: yarn),
        Missing("falcon", "alibi", false, not: true),
        Missing("falcon", "multi_query", true, not: false),
        Missing("falcon", "new_decoder_architecture", false, not: true),
        Missing("falcon", "num_kv_heads", none, not: 1, ["multi_query": false]),
        Missing("gemma2", "attn_logit_softcapping", 50, not: none),
        Missing("gemma2", "head_dim", 256, not: 128),
        Missing("gemma2", "num_key_value_heads", 4, not: 2),
        Missing("gemma2", "query_pre_attn_scalar", 256, not: 144),
        Missing("gemma2", "sliding_window", 4096, not: none, unlisted),
        Missing("gemma2", "use_bidirectional_attention", none, not: true),
        Missing("gemma3_text", "attn_logit_softcapping", none, not: 50),
        Missing("gemma3_text", "head_dim", 256, not: 128),
        Missing("gemma3_text", "num_attention_heads", 8, not: 16),
        Missing("gemma3_text", "num_hidden_layers", 26, not: 12, unlisted),
        Missing("gemma3_text", "num_key_value_heads", 4, not: 2),
        Missing("gemma3_text", "query_pre_attn_scalar", 256, not: 168),
        Missing("gemma3_text", "sliding_window", 4096, not: 1024),
        Missing("gemma3_text", "sliding_window_pattern", 6, not: 4, unlisted),
        Missing("gemma3_text", "use_bidirectional_attention", false, not: true),
        Missing("glm4", "head_dim", 128, not: 64),
        Missing("glm4", "num_key_value_heads", 2, not: 4),
        Missing("gpt_bigcode", "multi_query", true, not: false),
        Missing("gpt_bigcode", "scale_attn_weights", true, not: false),
        Missing("gpt_oss", "head_dim", 64, not: none, ["hidden_size": 2048]),
        Missing("gpt_oss", "num_key_value_heads", 8, not: none),
        Missing("gpt_oss", "sliding_window", 128, not: none, unlisted),
        Missing("llama", "head_dim", none, not: 64),
        Missing("llama", "num_key_value_heads", none, not: 8),
        Missing("mistral", "head_dim", none, not: 64),
        Missing("mistral", "num_key_value_heads", 8, not: none),
        Missing("mistral", "sliding_window", 4096, not: none),
        Missing("olmo3", "head_dim", 128, not: 64),
        Missing("olmo3", "num_key_value_heads", none, not: 8),
        Missing("olmo3", "sliding_window", 4096, not: none, unlisted),
        Missing("phi3", "head_dim", 96, not: 64),
        Missing("phi3", "num_key_value_heads", none, not: 8),
        Missing("phi3", "sliding_window", none, not: 2047),
        Missing("qwen2", "head_dim", 128, not: 64),
        Missing("qwen2", "max_window_layers", 28, not: 30, switched),
        Missing("qwen2", "num_key_value_heads", 32, not: 8),
        Missing("qwen2", "sliding_window", 4096, not: none, switched),
        Missing("qwen2", "use_sliding_window", false, not: true, switched),
        Missing("qwen3", "head_dim", 128, not: none, ["hidden_size": 2048]),
        Missing("qwen3", "max_window_layers", 28, not: 30, switched),
        Missing("qwen3", "num_key_value_heads", 32, not: 8),
        Missing("qwen3", "sliding_window", 4096, not: none, switched),
        Missing("qwen3", "use_sliding_window", false, not: true, switched),
        Missing("qwen3_moe", "head_dim", 64, not: 128),
        Missing("qwen3_moe", "num_key_value_heads", 4, not: none),
        Missing("qwen3_moe", "sliding_window", 4096, not: none, switched),
        Missing("qwen3_moe", "use_sliding_window", false, not: true, switched),
        Missing("smollm3", "head_dim", 128, not: 64),
        Missing("smollm3", "no_rope_layer_interval", 4, not: 6, switched.merging(["no_rope_layers": nil]) { $1 }),
        Missing("smollm3", "no_rope_layers", none, not: [Int](repeating: 0, count: 36), switched),
        Missing("smollm3", "num_key_value_heads", 4, not: none),
        Missing("smollm3", "sliding_window", none, not: 4096, switched),
        Missing("smollm3", "use_sliding_window", false, not: true, switched),
    ]

    @Test("a key that is missing is what the family's class has", arguments: missing)
    func missing(key: Missing) throws {
        // Only gpt_oss has sinks.
        let sinks = key.family == "gpt_oss" ? [try writeSinks("sinks", 0..<36)] : []
        func model(_ value: (any Sendable)?) throws -> ModelDescription {
            var changes = key.changes
            changes.updateValue(value, forKey: key.key)
            return try description(key.family, changes) { $0.sinks = sinks }
        }
        let without = try model(nil)
        #expect(try model(key.value) == without)
        let other = try? model(key.other)
        #expect(other != without)
    }

    @Test(
        "sizes are not guessed, though classes have some",
        arguments: [
            ("llama", "num_hidden_layers"), ("llama", "num_attention_heads"), ("gemma2", "num_hidden_layers"),
            ("llama", "hidden_size"), ("gpt_bigcode", "n_embd"), ("gpt_bigcode", "n_layer"), ("falcon", "hidden_size"),
            ("deepseek_v3", "kv_lora_rank"), ("deepseek_v3", "qk_nope_head_dim"), ("deepseek_v2", "qk_rope_head_dim"),
        ])
    func sizes(family: String, key: String) throws {
        #expect(try refusal(family, [key: nil, "head_dim": nil]).contains("`\(key)` is missing"))
    }
}
