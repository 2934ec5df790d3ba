// SPDX-License-Identifier: Apache-2.0

internal import DCPCore

/// The defaults of transformers' own classes for missing keys, in release 5.24.
///
/// They do not apply to null, which means none. Old files and nested configurations omit values that equal the class's:
/// Gemma 3's 4B has no `head_dim` in its `text_config`.
extension HuggingFaceConfig {
    private static func missing(_ key: String, of family: Family) -> Int? {
        switch (family, key) {
        case (.gemma3, "num_hidden_layers"): 26
        case (.gemma3, "num_attention_heads"): 8
        case (.gemma2, "head_dim"), (.gemma3, "head_dim"): 256
        case (.gemma2, "attn_logit_softcapping"): 50
        case (.gemma2, "query_pre_attn_scalar"), (.gemma3, "query_pre_attn_scalar"): 256
        case (.glm4, "head_dim"), (.qwen3, "head_dim"): 128
        case (.gptOss, "head_dim"): 64
        case (.qwen2, "num_key_value_heads"), (.qwen3, "num_key_value_heads"): 32
        case (.gptOss, "num_key_value_heads"), (.mistral, "num_key_value_heads"): 8
        case (.glm4, "num_key_value_heads"): 2
        case (.gemma2, "num_key_value_heads"), (.gemma3, "num_key_value_heads"), (.qwen3Moe, "num_key_value_heads"),
            (.smollm3, "num_key_value_heads"):
            4
        case (.gptOss, "sliding_window"): 128
        case (.gemma2, "sliding_window"), (.gemma3, "sliding_window"), (.mistral, "sliding_window"),
            (.olmo3, "sliding_window"), (.qwen2, "sliding_window"), (.qwen3, "sliding_window"),
            (.qwen3Moe, "sliding_window"):
            4096
        case (.qwen2, "max_window_layers"), (.qwen3, "max_window_layers"): 28
        default: nil
        }
    }

    static func integer(
        _ key: String, of family: Family, _ fields: ModelFields, in limits: ClosedRange<Int>
    ) throws(ServiceError) -> Int? {
        fields.has(key) ? try fields.integer(key, in: limits) : missing(key, of: family)
    }

    func number(_ key: String) throws(ServiceError) -> Double? {
        fields.has(key) ? try fields.number(key) : Self.missing(key, of: family).map(Double.init)
    }

    func integer(_ key: String, in limits: ClosedRange<Int>) throws(ServiceError) -> Int? {
        try Self.integer(key, of: family, fields, in: limits)
    }
}
