// SPDX-License-Identifier: Apache-2.0

internal import DCPCore

/// A model file: named kinds of attention, and the order of layers by these names. YAML or JSON.
///
/// ```yaml
/// revision: sha256:41c8
/// kv_format: bf16
/// kinds:
///   local: {query_heads: 8, kv_heads: 4, key_dim: 256, window: 1024}
///   global: {query_heads: 8, kv_heads: 4, key_dim: 256}
/// layers:
///   - repeat: 4
///     layers: [{kind: local, repeat: 5}, {kind: global}]
///   - {kind: local, repeat: 2}
/// ```
struct ModelFile {
    /// Deeper nesting than repetitions of repetitions of runs would not be readable.
    private static let depthMax = 4

    let fields: ModelFields

    init(_ fields: ModelFields) { self.fields = fields }

    func draft() throws(ServiceError) -> ModelDraft {
        try fields.check(keys: ["revision", "kv_format", "kinds", "layers", "sinks"])
        let kinds = try kinds()
        var layers: [LayerAttention] = []
        try append(try runs(of: fields), of: kinds, to: &layers, depth: 1)
        return ModelDraft(
            layers: layers, sinks: try sinks(), kvFormat: try kvFormat(), revision: try fields.text("revision"))
    }

    private func kvFormat() throws(ServiceError) -> CacheFormat? {
        guard let name = try fields.text("kv_format") else { return nil }
        guard let format = CacheFormat(name: name) else {
            throw fields.error("kv_format", "is `\(name)`; write \(CacheFormat.names).")
        }
        return format
    }

    private func kinds() throws(ServiceError) -> [String: LayerAttention] {
        let all = try fields.required(
            fields.fields("kinds"), "kinds", "name the layers' kinds, with query_heads, kv_heads and key_dim each")
        var kinds: [String: LayerAttention] = [:]
        for name in all.names {
            let kind = try all.required(all.fields(name), name, "give its query_heads, kv_heads and key_dim")
            kinds[name] = try Self.attention(kind)
        }
        return kinds
    }

    // MARK: - Layers

    private func runs(of fields: ModelFields) throws(ServiceError) -> [ModelFields] {
        let runs = try fields.list("layers", max: ModelDescription.layersMax)
        return try fields.required(
            runs.flatMap { $0.isEmpty ? nil : $0 }, "layers", "list runs of layers, such as {kind: local, repeat: 5}")
    }

    private func append(
        _ runs: [ModelFields], of kinds: [String: LayerAttention], to layers: inout [LayerAttention], depth: Int
    ) throws(ServiceError) {
        for run in runs {
            try run.check(keys: ["kind", "layers", "repeat"])
            let count = try run.integer("repeat", in: 1...ModelDescription.layersMax) ?? 1
            var once: [LayerAttention] = []
            if run.has("layers") {
                guard !run.has("kind") else {
                    throw run.error("kind", "is given together with `layers`; a run has only one of the two.")
                }
                guard depth < Self.depthMax else {
                    throw run.error("layers", "is nested deeper than \(Self.depthMax) levels; reduce the nesting.")
                }
                try append(try self.runs(of: run), of: kinds, to: &once, depth: depth + 1)
            } else {
                let known = kinds.keys.sorted()
                let name = try run.required(
                    run.text("kind"), "kind", "name one of `kinds`: \(known.joined(separator: ", "))")
                guard let kind = kinds[name] else {
                    let hint = name.slip(among: known).map { "write `\($0)`; " } ?? ""
                    throw run.error(
                        "kind", "is `\(name)`, which `kinds` lacks; \(hint)there are \(known.joined(separator: ", ")).")
                }
                once = [kind]
            }
            // Before they are made: four levels of a thousand each would not fit.
            guard layers.count + count * once.count <= ModelDescription.layersMax else {
                throw run.error(
                    "repeat",
                    "results in \(layers.count + count * once.count) layers, more than "
                        + "\(ModelDescription.layersMax); correct it."
                )
            }
            for _ in 0..<count { layers += once }
        }
    }

    private func sinks() throws(ServiceError) -> [Int: [Float]] {
        guard let all = try fields.fields("sinks") else { return [:] }
        var sinks: [Int: [Float]] = [:]
        for name in all.names {
            guard let layer = Int(name), (0..<ModelDescription.layersMax).contains(layer), "\(layer)" == name else {
                throw all.error(name, "is not the number of a layer; write `0: [...]` and so on.")
            }
            let logits = try all.required(
                all.numbers(name, max: LayerAttention.headsMax), name, "list a number for each query head")
            sinks[layer] = logits.map { Float($0) }
        }
        return sinks
    }
}

// MARK: - Kinds

extension ModelFile {
    private static func attention(_ fields: ModelFields) throws(ServiceError) -> LayerAttention {
        try fields.check(keys: [
            "query_heads", "kv_heads", "key_dim", "value_dim", "values", "scale", "softcap", "window", "sinks",
        ])
        let heads = 1...LayerAttention.headsMax
        let queryHeads = try fields.required(
            fields.integer("query_heads", in: heads), "query_heads", "give the number of query heads of a layer")
        let kvHeads = try fields.required(
            fields.integer("kv_heads", in: heads), "kv_heads", "give the number of KV heads of a layer")
        let keyDim = try fields.required(
            fields.integer("key_dim", in: LayerAttention.keyDims), "key_dim", "give the dimension of a key")
        let valueDim = try fields.integer("value_dim", in: LayerAttention.valueDims)
        let softcap = try fields.number("softcap") ?? 0
        let window = try fields.integer("window", in: 0...LayerAttention.windowMax) ?? 0
        let scale = try fields.number("scale").map { Float($0) }
        let hasSinks = try fields.flag("sinks") ?? false
        let values = try values(fields, valueDim ?? keyDim)
        do throws(ServiceError) {
            return try LayerAttention(
                queryHeads: queryHeads, kvHeads: kvHeads, keyDim: keyDim, values: values,
                scale: scale ?? LayerAttention.defaultScale(keyDim: keyDim),
                softcap: softcap == 0 ? nil : Float(softcap),
                visibility: window == 0 ? .all : .window(window), hasSinks: hasSinks)
        } catch {
            throw fields.error(error.message)
        }
    }

    private static func values(_ fields: ModelFields, _ dim: Int) throws(ServiceError) -> LayerAttention.Values {
        switch try fields.text("values") ?? "own" {
        case "own": return .own(dim)
        case "leading":
            _ = try fields.required(
                fields.text("value_dim"), "value_dim", "give the number of leading key dimensions that are the values")
            return .leading(dim)
        case let other:
            throw fields.error(
                "values", "is `\(other)`; write own, or leading for the first `value_dim` dimensions of the keys.")
        }
    }
}
