// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import DCPSafetensors

/// A checked file of queries, keys and values: every tensor of a layer exists and is finite. Layers may differ in
/// everything except their tokens.
public struct SubmitFile: Sendable {
    /// One layer's tensors.
    struct Layer: Sendable {
        var index: Int
        /// `[tokens][Hq][Dk]`
        var queries: SafetensorsTensor
        /// `[tokens][Hkv][Dk]`
        var keys: SafetensorsTensor
        /// `[tokens][Hkv][Dv]`; nil where they are a part of the keys.
        var values: SafetensorsTensor?
        /// `[Hq]`; nil where the file has none.
        var sinks: [Float]?
        /// Dv: of `values`, or as the metadata says how many of the keys' dimensions they are.
        var valueDim: Int
        /// What the layer's results are called: `o` or `layers.<l>.o`.
        var prefix: String

        var queryHeads: Int { queries.shape[1] }
        var kvHeads: Int { keys.shape[1] }
        var keyDim: Int { queries.shape[2] }
    }

    public let path: String
    public let tokens: Int
    let layers: [Layer]
    /// The token ids; nil if the file has none.
    let tokenIDs: [UInt32]?
    let metadata: [String: String]

    /// - Parameter model: what the file is of, where that is known: it may tell which values are a part of the keys.
    /// - Throws: `.invalidRequest`, naming file, tensor, value and remedy.
    public init(_ path: String, layer: Int?, model: ModelDescription? = nil) throws(ServiceError) {
        let file = try SafetensorsFile.open(path)
        self.path = path
        metadata = file.metadata
        layers = try Self.layers(of: file, layer: layer, model)
        tokens = layers[0].queries.shape.first ?? 0
        tokenIDs = try file.tokenIDs(count: tokens)
        for layer in layers { try check(layer) }
    }

    private func check(_ layer: Layer) throws(ServiceError) {
        for tensor in [layer.queries, layer.keys] + [layer.values].compactMap(\.self) {
            guard tensor.shape.count == 3, tensor.shape.allSatisfy({ $0 > 0 }) else {
                throw ServiceError(
                    .invalidRequest,
                    "\(path): tensor \(tensor.name) has shape \(tensor.shape); it needs three dimensions [tokens, heads, "
                        + "dim], none of them 0.")
            }
        }
        try check(layer.queries, [tokens, layer.queryHeads, layer.keyDim])
        try check(layer.keys, [tokens, layer.kvHeads, layer.keyDim])
        if let values = layer.values {
            try check(values, [tokens, layer.kvHeads, values.shape[2]])
            guard layer.keys.dataType == values.dataType else {
                throw ServiceError(
                    .invalidRequest,
                    "\(path): \(layer.keys.name) is \(layer.keys.dataType.name) and \(values.name) "
                        + "\(values.dataType.name); store both in one dtype.")
            }
        } else if !LayerAttention.valueDims.contains(layer.valueDim) {
            throw ServiceError(
                .invalidRequest,
                "\(path): value_dim \(layer.valueDim) of layer \(layer.index) is outside "
                    + "\(LayerAttention.valueDims.lowerBound)...\(LayerAttention.valueDims.upperBound); correct the "
                    + "metadata.")
        }
        for tensor in [layer.queries, layer.keys] + [layer.values].compactMap(\.self) {
            if let found = try tensor.firstNonFiniteValue() { throw found.error(file: path) }
        }
        if let sinks = layer.sinks, sinks.count != layer.queryHeads {
            throw ServiceError(
                .invalidRequest,
                "\(path): tensor \(layer.prefix)sinks has \(sinks.count) numbers, but layer \(layer.index) has "
                    + "\(layer.queryHeads) query heads; give one number for each.")
        }
        for (key, value) in [("query_heads", layer.queryHeads), ("kv_heads", layer.kvHeads)] {
            if let stated = try integer(key), stated != value {
                throw ServiceError(
                    .invalidRequest,
                    "\(path): the metadata says \(key) \(stated), but the tensors have \(value) in layer "
                        + "\(layer.index); correct one of them.")
            }
        }
    }

    private func check(_ tensor: SafetensorsTensor, _ shape: [Int]) throws(ServiceError) {
        guard tensor.shape == shape else {
            throw ServiceError(
                .invalidRequest,
                "\(path): tensor \(tensor.name) has shape \(tensor.shape), but the others need \(shape); correct its "
                    + "shape."
            )
        }
    }
}

// MARK: - Layers

extension SubmitFile {
    private static func layers(
        of file: SafetensorsFile, layer: Int?, _ model: ModelDescription?
    ) throws(ServiceError) -> [Layer] {
        let indices = Set(
            file.entries.compactMap { entry -> Int? in
                let parts = entry.name.split(separator: ".", omittingEmptySubsequences: false)
                guard parts.count == 3, parts[0] == "layers", ["q", "k", "v"].contains(parts[2]) else { return nil }
                return Int(parts[1]).flatMap { $0 >= 0 && String($0) == parts[1] ? $0 : nil }
            }
        ).sorted()
        if let index = indices.last ?? layer { try check(index: index, file.path) }
        guard indices.isEmpty else {
            guard layer == nil else {
                throw ServiceError(
                    .invalidRequest,
                    "\(file.path) names its layers (layers.\(indices[0]).q ...), so --layer has no effect; omit it."
                )
            }
            return try indices.map { (index) throws(ServiceError) in
                try tensors(of: file, index, "layers.\(index).", model)
            }
        }
        guard file.entry(named: "q") != nil else {
            throw ServiceError(
                .invalidRequest,
                "\(file.path) has neither a tensor q nor layers.<l>.q; it needs q, k and v for one layer, or layers.<l>.q, "
                    + ".k and .v for several.")
        }
        return [try tensors(of: file, layer ?? 0, "", model)]
    }

    /// - Throws: `.invalidModel` for a layer that no model has.
    private static func check(index: Int, _ path: String) throws(ServiceError) {
        guard !(0..<ModelDescription.layersMax).contains(index) else { return }
        throw ServiceError(
            .invalidModel,
            "\(path): layer \(index) is outside 0..<\(ModelDescription.layersMax); correct the tensors' names, or "
                + "--layer.")
    }

    private static func tensors(
        of file: SafetensorsFile, _ index: Int, _ prefix: String, _ model: ModelDescription?
    ) throws(ServiceError) -> Layer {
        let queries = try file.tensor(named: prefix + "q"), keys = try file.tensor(named: prefix + "k")
        let stated = try integer("value_dim", of: prefix, in: file.metadata, file.path)
        let valueDim = stated ?? model?.leadingValueDim(of: index)
        // Without a number of dimensions to take from the keys, values that are not there are missing.
        let hasValues = valueDim == nil || file.entry(named: prefix + "v") != nil
        let values = hasValues ? try file.tensor(named: prefix + "v") : nil
        return Layer(
            index: index, queries: queries, keys: keys, values: values, sinks: try sinks(of: file, prefix),
            valueDim: values?.shape.dropFirst(2).first ?? valueDim ?? 0, prefix: prefix)
    }

    private static func sinks(of file: SafetensorsFile, _ prefix: String) throws(ServiceError) -> [Float]? {
        guard file.entry(named: prefix + "sinks") != nil else { return nil }
        let tensor = try file.tensor(named: prefix + "sinks")
        guard tensor.shape.count == 1, tensor.shape[0] <= LayerAttention.headsMax else {
            throw ServiceError(
                .invalidRequest,
                "\(file.path): tensor \(tensor.name) has shape \(tensor.shape); it needs one number for each query head."
            )
        }
        return try tensor.floats(rows: 0..<tensor.rowCount)
    }

    /// A whole number of the metadata; a flag wins over it.
    /// - Parameter layer: of one layer, where it has a number of its own.
    func integer(_ key: String, of layer: Layer? = nil, flag: Int? = nil) throws(ServiceError) -> Int? {
        if let flag { return flag }
        return try Self.integer(key, of: layer?.prefix ?? "", in: metadata, path)
    }

    private static func integer(
        _ key: String, of prefix: String, in metadata: [String: String], _ path: String
    ) throws(ServiceError) -> Int? {
        let key = metadata[prefix + key] == nil ? key : prefix + key
        guard let text = metadata[key] else { return nil }
        guard let value = Int(text), value >= 0 else {
            throw ServiceError(.invalidRequest, "\(path): the metadata's \(key) is `\(text)`, not a whole number.")
        }
        return value
    }

    /// A number of the metadata; a flag wins over it.
    func number(_ key: String, of layer: Layer, flag: Float?) throws(ServiceError) -> Float? {
        if let flag { return flag }
        let key = metadata[layer.prefix + key] == nil ? key : layer.prefix + key
        guard let text = metadata[key] else { return nil }
        guard let value = Float(text) else {
            throw ServiceError(.invalidRequest, "\(path): the metadata's \(key) is `\(text)`, not a number.")
        }
        return value
    }
}

extension ModelDescription {
    /// How many of its keys' dimensions a layer's values are; nil where they are rows of their own.
    fileprivate func leadingValueDim(of layer: Int) -> Int? {
        guard (0..<layers).contains(layer), case .leading(let dim) = self[layer].values else { return nil }
        return dim
    }
}
