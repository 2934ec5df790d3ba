// SPDX-License-Identifier: Apache-2.0

internal import DCPCore

/// A model's `config.json` as written and interpreted by Hugging Face transformers.
///
/// The meaning of a key depends on the family: `sliding_window` applies to every layer in one, to some layers in
/// another, and to none in a third. Families are therefore listed by name, and an unknown one is refused instead of
/// guessed.
struct HuggingFaceConfig {
    /// Supported families, by `model_type`.
    enum Family: String, CaseIterable {
        case deepseekV2 = "deepseek_v2"
        case deepseekV3 = "deepseek_v3"
        case falcon
        case gemma2
        case gemma3 = "gemma3_text"
        case glm4
        case gptBigcode = "gpt_bigcode"
        case gptOss = "gpt_oss"
        case llama
        case mistral
        case olmo3
        case phi3
        case qwen2
        case qwen3
        case qwen3Moe = "qwen3_moe"
        case smollm3
    }

    /// Of the language model: the file's, or its `text_config`.
    let fields: ModelFields
    let family: Family
    let layers: Int
    let queryHeads: Int
    private let root: ModelFields

    /// - Throws: `.invalidModel` for unsupported attention, by name.
    init(_ root: ModelFields) throws(ServiceError) {
        (fields, family) = try Self.languageModel(root)
        self.root = root
        let (fields, family) = (fields, family)
        let (layersName, headsName) =
            family == .gptBigcode ? ("n_layer", "n_head") : ("num_hidden_layers", "num_attention_heads")
        layers = try fields.required(
            Self.integer(layersName, of: family, fields, in: 1...ModelDescription.layersMax), layersName,
            "give the number of layers")
        queryHeads = try fields.required(
            Self.integer(headsName, of: family, fields, in: 1...LayerAttention.headsMax), headsName,
            "give the number of query heads")
    }

    private static func languageModel(_ root: ModelFields) throws(ServiceError) -> (ModelFields, Family) {
        let type = try root.required(
            root.text("model_type"), "model_type", "give a config.json of Hugging Face transformers")
        guard type == "gemma3" else { return (root, try family(named: type, root)) }
        let text = try root.required(root.fields("text_config"), "text_config", "give a whole config.json")
        // Nested configurations are written as differences, so that theirs may be left out.
        let textType = try text.text("model_type") ?? Family.gemma3.rawValue
        return (text, try family(named: textType, text))
    }

    private static func family(named type: String, _ fields: ModelFields) throws(ServiceError) -> Family {
        if let family = Family(rawValue: type) { return family }
        if let why = refusal(of: type) {
            throw fields.error("model_type", "is `\(type)`, which cannot be served: \(why).")
        }
        throw fields.error(
            "model_type",
            "is `\(type)`, which is not supported; supported types are "
                + "\(Family.allCases.map(\.rawValue).joined(separator: ", ")) and gemma3. "
                + "If its attention consists of the same parts, describe it with --model-file.")
    }

    func draft() throws(ServiceError) -> ModelDraft {
        try refuseSettings()
        let shape = try shape()
        let softcap = try softcap()
        let layers = try windows().map { (window) throws(ServiceError) -> LayerAttention in
            do throws(ServiceError) {
                return try LayerAttention(
                    queryHeads: queryHeads, kvHeads: shape.kvHeads, keyDim: shape.keyDim, values: shape.values,
                    scale: shape.scale, softcap: softcap, visibility: window.map { .window($0) } ?? .all,
                    hasSinks: family == .gptOss)
            } catch {
                throw ServiceError(.invalidModel, "\(fields.file): \(error.message)")
            }
        }
        return ModelDraft(layers: layers, weightsDataType: try weightsDataType())
    }

    private func softcap() throws(ServiceError) -> Float? {
        guard family == .gemma2, let cap = try number("attn_logit_softcapping") else { return nil }
        return Float(cap)
    }

    /// `dtype`, or `torch_dtype` before transformers 5; of quantized weights, and of those that are not said, none.
    private func weightsDataType() throws(ServiceError) -> DataType? {
        for fields in [fields, root] {
            for key in ["dtype", "torch_dtype"] {
                switch try fields.text(key) {
                case "bfloat16": return .bfloat16
                case "float16": return .float16
                case "float32": return .float32
                default: continue
                }
            }
        }
        return nil
    }
}
