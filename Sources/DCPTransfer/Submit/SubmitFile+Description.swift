// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPSafetensors

/// The model that a file, with its flags, is of.
extension SubmitFile {
    /// - Parameters:
    ///   - layers: of the model, at least the file's.
    ///   - known: the registered model, or that of a model file. It supplies what flags and file lack.
    /// - Throws: `.invalidRequest`, `.invalidModel`; `.modelMismatch` with both values if flags or file contradict a
    ///   given model, which takes precedence.
    func description(
        _ options: SubmitOptions, layers: Int, known: ModelDescription?
    ) throws(ServiceError) -> ModelDescription {
        guard (1...ModelDescription.layersMax).contains(layers) else {
            throw ServiceError(
                .invalidModel,
                "\(layers) layers are outside 1...\(ModelDescription.layersMax); correct --layers, or the metadata's `layers`."
            )
        }
        // Of another number of layers it is another model, and registering will say so.
        let base = known?.layers == layers ? known : nil
        let kinds = try self.layers.map { (layer) throws(ServiceError) in
            (index: layer.index, kind: try attention(of: layer, options, known: base), sinks: sinks(of: layer, base))
        }
        // Layers that the file has not are as they are known; of a new model like the file's first.
        var all = (0..<layers).map { base?[$0] ?? kinds[0].kind }
        var logits = (0..<layers).map { base?.sinks[$0] ?? kinds[0].sinks }
        for layer in kinds {
            all[layer.index] = layer.kind
            logits[layer.index] = layer.sinks
        }
        let description = try ModelDescription(
            layers: all, kvFormat: options.kvFormat ?? base?.kvFormat ?? CacheFormat(self.layers[0].keys.dataType),
            sinks: logits, revision: options.revision ?? metadata["revision"] ?? options.description?.revision)
        if let differences = options.description?.differences(from: description), !differences.isEmpty {
            throw ServiceError(
                .modelMismatch,
                "\(path) and the flags do not match the model in --model-file "
                    + "(\(differences.joined(separator: "; "))); correct one of them.")
        }
        return description
    }

    private func sinks(of layer: Layer, _ known: ModelDescription?) -> [Float] {
        layer.sinks ?? known?.sinks[layer.index] ?? []
    }

    private func attention(
        of layer: Layer, _ options: SubmitOptions, known: ModelDescription?
    ) throws(ServiceError) -> LayerAttention {
        let known = known?[layer.index]
        let scale = try number("scale", of: layer, flag: options.scale)
        let softcap = try number("softcap", of: layer, flag: options.softcap)
        let window = try integer("window", of: layer, flag: options.window)
        return try LayerAttention(
            queryHeads: layer.queryHeads, kvHeads: layer.kvHeads, keyDim: layer.keyDim, values: values(of: layer),
            scale: scale ?? known?.scale ?? LayerAttention.defaultScale(keyDim: layer.keyDim),
            softcap: softcap == 0 ? nil : softcap ?? known?.softcap,
            visibility: window.map { $0 == 0 ? .all : .window($0) } ?? known?.visibility ?? .all,
            hasSinks: layer.sinks != nil || known?.hasSinks == true)
    }

    private func values(of layer: Layer) throws(ServiceError) -> LayerAttention.Values {
        let stated = try integer("value_dim", of: layer)
        guard let values = layer.values else { return .leading(layer.valueDim) }
        if let stated, stated != layer.valueDim {
            throw ServiceError(
                .invalidRequest,
                "\(path): the metadata says value_dim \(stated), but \(values.name) has \(layer.valueDim) "
                    + "dimensions; correct one of them, or omit \(values.name) if the values are the first "
                    + "dimensions of the keys.")
        }
        return .own(layer.valueDim)
    }
}
