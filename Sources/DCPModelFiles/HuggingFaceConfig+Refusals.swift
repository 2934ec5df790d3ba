// SPDX-License-Identifier: Apache-2.0

internal import DCPCore

/// Known types of attention that are not over all tokens or a window with one scale: they are refused with the reason.
extension HuggingFaceConfig {
    static func refusal(of type: String) -> String? {
        switch type {
        case "llama4", "llama4_text":
            "most of its layers attend within chunks of positions (chunked-local attention), which is not a window"
        case "bloom", "mpt":
            "it adds a bias to every score that grows with the distance (ALiBi)"
        case "mamba", "mamba2", "falcon_mamba", "rwkv":
            "it keeps a state of one size instead of keys and values"
        case "bamba", "jamba", "nemotron_h", "qwen3_next", "recurrent_gemma", "zamba2":
            "some of its layers use linear attention or a recurrence, whose state is not a cache of keys and values"
        default: nil
        }
    }

    /// Settings of families that are served otherwise.
    func refuseSettings() throws(ServiceError) {
        if family == .falcon, try fields.flag("alibi") == true {
            throw fields.error(
                "alibi",
                "is true, which cannot be served: it adds a bias to every score that grows with the distance (ALiBi).")
        }
        if family == .gemma2 || family == .gemma3, try fields.flag("use_bidirectional_attention") == true {
            throw fields.error(
                "use_bidirectional_attention",
                "is true, which cannot be served: its queries see tokens after their own.")
        }
        // Releases of transformers differ in whether they apply it.
        if family == .gemma3, let cap = try fields.number("attn_logit_softcapping") {
            throw fields.error(
                "attn_logit_softcapping",
                "is \(cap), which not all releases of transformers apply to this family; describe the model with --model-file."
            )
        }
    }
}
