// SPDX-License-Identifier: Apache-2.0

internal import DCPCore

/// Which layers have a window, as transformers decides it. Its masks let the query at p see the keys after p - window, so p -
/// window + 1 ... p: `Visibility.window` of the same number.
extension HuggingFaceConfig {
    /// For each layer its window, or nil for all tokens.
    func windows() throws(ServiceError) -> [Int?] {
        switch family {
        case .deepseekV2, .deepseekV3, .falcon, .glm4, .gptBigcode, .llama:
            // Transformers reads neither `sliding_window` nor `layer_types` of these.
            return Array(repeating: nil, count: layers)
        case .mistral, .phi3: return Array(repeating: try window(), count: layers)
        case .qwen3Moe: return Array(repeating: try switchedWindow(), count: layers)
        case .qwen2, .qwen3:
            let first = try integer("max_window_layers", in: 0...1 << 20) ?? 0
            let window = try switchedWindow()
            return try windows(window) { window != nil && $0 >= first }
        case .gemma2, .gptOss: return try windows(period: 2)
        case .olmo3: return try windows(period: 4)
        case .gemma3:
            // Releases that write `_sliding_window_pattern` write `layer_types`, too, and read only those.
            return try windows(
                period: try fields.integer("sliding_window_pattern", in: 1...ModelDescription.layersMax) ?? 6)
        case .smollm3:
            let interval = try fields.integer("no_rope_layer_interval", in: 1...ModelDescription.layersMax) ?? 4
            let (hasRope, window) = (try ropes(), try switchedWindow())
            return try windows(window) { layer in
                window != nil && (hasRope.map { $0[layer] == 0 } ?? ((layer + 1) % interval == 0))
            }
        }
    }

    /// SmolLM3's: 0 for a layer without a rotary embedding, in spite of the key's name.
    private func ropes() throws(ServiceError) -> [Double]? {
        guard let hasRope = try fields.numbers("no_rope_layers", max: ModelDescription.layersMax) else { return nil }
        guard hasRope.count >= layers else {
            throw fields.error(
                "no_rope_layers", "has \(hasRope.count) items for \(layers) layers; give one for each layer.")
        }
        return hasRope
    }

    private func window() throws(ServiceError) -> Int? {
        try integer("sliding_window", in: 1...LayerAttention.windowMax)
    }

    /// Qwen's and SmolLM3's is only a window where a second key says so.
    private func switchedWindow() throws(ServiceError) -> Int? {
        try fields.flag("use_sliding_window") ?? false ? try window() : nil
    }

    /// The last layer of each period sees all tokens.
    private func windows(period: Int) throws(ServiceError) -> [Int?] {
        try windows(try window()) { ($0 + 1) % period != 0 }
    }

    /// - Parameter isWindowed: where the file does not list `layer_types`.
    private func windows(_ window: Int?, where isWindowed: (Int) -> Bool) throws(ServiceError) -> [Int?] {
        let listed = try fields.texts("layer_types", max: ModelDescription.layersMax)
        let types = listed ?? (0..<layers).map { isWindowed($0) ? "sliding_attention" : "full_attention" }
        guard types.count == layers else {
            throw fields.error(
                "layer_types", "has \(types.count) items for \(layers) layers; give one for each layer.")
        }
        return try types.enumerated().map { (layer, type) throws(ServiceError) -> Int? in
            switch type {
            case "full_attention": return nil
            case "sliding_attention":
                guard let window else {
                    throw fields.error(
                        "sliding_window",
                        "is missing or disabled (use_sliding_window), but layer \(layer) has a window (layer_types, "
                            + "or the family's default); correct one of them.")
                }
                return window
            default:
                throw fields.error(
                    "layer_types",
                    "has `\(type)` at layer \(layer), which cannot be served; a layer sees all tokens (full_attention) or a "
                        + "window (sliding_attention).")
            }
        }
    }
}
