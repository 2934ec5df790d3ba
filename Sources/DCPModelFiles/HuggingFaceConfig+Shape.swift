// SPDX-License-Identifier: Apache-2.0

internal import DCPCore

extension HuggingFaceConfig {
    /// The properties that all layers of a model share.
    struct Shape {
        var kvHeads: Int
        var keyDim: Int
        var values: LayerAttention.Values
        var scale: Float
    }

    func shape() throws(ServiceError) -> Shape {
        switch family {
        case .deepseekV2, .deepseekV3: return try latentShape()
        default: break
        }
        let headDim = try headDim()
        return Shape(
            kvHeads: try kvHeads(), keyDim: headDim, values: .own(headDim), scale: try scale(headDim: headDim))
    }

    private func headDim() throws(ServiceError) -> Int {
        // Neither of the two reads a `head_dim`.
        let isDerived = family == .falcon || family == .gptBigcode
        if !isDerived, let dim = try integer("head_dim", in: LayerAttention.keyDims) { return dim }
        let name = family == .gptBigcode ? "n_embd" : "hidden_size"
        let size = try fields.required(
            integer(name, in: 1...1 << 20), name, "without `head_dim`, this value gives the head dimension")
        guard size % queryHeads == 0 else {
            throw fields.error(
                name,
                "is \(size), which is not a multiple of \(queryHeads) query heads; give `head_dim`.")
        }
        return size / queryHeads
    }

    private func kvHeads() throws(ServiceError) -> Int {
        let heads = 1...LayerAttention.headsMax
        switch family {
        case .gptBigcode:
            return try fields.flag("multi_query") ?? true ? 1 : queryHeads
        case .falcon:
            let isNew = try fields.flag("new_decoder_architecture") ?? false
            let isMultiQuery = try fields.flag("multi_query") ?? true
            return isNew || !isMultiQuery ? try fields.integer("num_kv_heads", in: heads) ?? queryHeads : 1
        default:
            return try integer("num_key_value_heads", in: heads) ?? queryHeads
        }
    }

    private func scale(headDim: Int) throws(ServiceError) -> Float {
        switch family {
        case .gemma2, .gemma3:
            let name = "query_pre_attn_scalar"
            guard let scalar = try number(name), scalar > 0 else {
                throw fields.error(name, "is not a positive number; correct it.")
            }
            return Float(1 / scalar.squareRoot())
        case .gptBigcode where try fields.flag("scale_attn_weights") == false: return 1
        default: return LayerAttention.defaultScale(keyDim: headDim)
        }
    }
}
