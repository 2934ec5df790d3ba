public import DCPCore

/// A file of queries, keys and values, checked: every tensor is there, of one shape, and finite.
public struct SubmitFile: Sendable {
    /// One layer's tensors.
    struct Layer: Sendable {
        var index: Int
        /// `[tokens][Hq][Dk]`
        var queries: SafetensorsTensor
        /// `[tokens][Hkv][Dk]`
        var keys: SafetensorsTensor
        /// `[tokens][Hkv][Dv]`
        var values: SafetensorsTensor
        /// What the layer's results are called: `o` or `layers.<l>.o`.
        var prefix: String
    }

    public let path: String
    public let tokens: Int
    public let queryHeads: Int
    public let kvHeads: Int
    public let keyDim: Int
    public let valueDim: Int
    let layers: [Layer]
    let metadata: [String: String]

    /// - Throws: `.invalidRequest`, naming file, tensor, value and remedy.
    public init(_ path: String, layer: Int?) throws(ServiceError) {
        let file = try SafetensorsFile.open(path)
        self.path = path
        metadata = file.metadata
        layers = try Self.layers(of: file, layer: layer)
        let first = layers[0]
        for tensor in [first.queries, first.keys, first.values] {
            guard tensor.shape.count == 3, tensor.shape.allSatisfy({ $0 > 0 }) else {
                throw ServiceError(
                    .invalidRequest,
                    "\(path): tensor \(tensor.name) has shape \(tensor.shape); it needs three dimensions [tokens, heads, "
                        + "dim], none of them 0.")
            }
        }
        tokens = first.queries.shape[0]
        queryHeads = first.queries.shape[1]
        keyDim = first.queries.shape[2]
        kvHeads = first.keys.shape[1]
        valueDim = first.values.shape[2]
        for layer in layers {
            try Self.check(layer.queries, [tokens, queryHeads, keyDim], path)
            try Self.check(layer.keys, [tokens, kvHeads, keyDim], path)
            try Self.check(layer.values, [tokens, kvHeads, valueDim], path)
            guard layer.keys.dataType == layer.values.dataType else {
                throw ServiceError(
                    .invalidRequest,
                    "\(path): \(layer.keys.name) is \(layer.keys.dataType.name) and \(layer.values.name) "
                        + "\(layer.values.dataType.name); store both in one dtype.")
            }
            for tensor in [layer.queries, layer.keys, layer.values] {
                if let found = try tensor.firstNonFiniteValue() { throw found.error(file: path) }
            }
        }
        for (key, value) in [("query_heads", queryHeads), ("kv_heads", kvHeads)] {
            if let stated = try integer(key), stated != value {
                throw ServiceError(
                    .invalidRequest,
                    "\(path): the metadata says \(key) \(stated), the tensors have \(value); correct one of them.")
            }
        }
    }

    private static func layers(of file: SafetensorsFile, layer: Int?) throws(ServiceError) -> [Layer] {
        let indices = Set(
            file.entries.compactMap { entry -> Int? in
                let parts = entry.name.split(separator: ".", omittingEmptySubsequences: false)
                guard parts.count == 3, parts[0] == "layers", ["q", "k", "v"].contains(parts[2]) else { return nil }
                return Int(parts[1]).flatMap { $0 >= 0 && String($0) == parts[1] ? $0 : nil }
            }
        ).sorted()
        func tensors(_ index: Int, _ prefix: String) throws(ServiceError) -> Layer {
            Layer(
                index: index, queries: try file.tensor(named: prefix + "q"),
                keys: try file.tensor(named: prefix + "k"), values: try file.tensor(named: prefix + "v"),
                prefix: prefix)
        }
        guard indices.isEmpty else {
            guard layer == nil else {
                throw ServiceError(
                    .invalidRequest,
                    "\(file.path) names its layers (layers.\(indices[0]).q ...), so --layer has no meaning; leave it out."
                )
            }
            return try indices.map { (index) throws(ServiceError) in try tensors(index, "layers.\(index).") }
        }
        guard file.entry(named: "q") != nil else {
            throw ServiceError(
                .invalidRequest,
                "\(file.path) has neither a tensor q nor layers.<l>.q; it needs q, k and v for one layer, or layers.<l>.q, "
                    + ".k and .v for several.")
        }
        return [try tensors(layer ?? 0, "")]
    }

    private static func check(_ tensor: SafetensorsTensor, _ shape: [Int], _ path: String) throws(ServiceError) {
        guard tensor.shape == shape else {
            throw ServiceError(
                .invalidRequest,
                "\(path): tensor \(tensor.name) has shape \(tensor.shape), the others need \(shape); correct its shape."
            )
        }
    }

    /// A whole number of the metadata; a flag wins over it.
    func integer(_ key: String, flag: Int? = nil) throws(ServiceError) -> Int? {
        if let flag { return flag }
        guard let text = metadata[key] else { return nil }
        guard let value = Int(text), value >= 0 else {
            throw ServiceError(.invalidRequest, "\(path): the metadata's \(key) is `\(text)`, not a whole number.")
        }
        return value
    }

    /// A number of the metadata; a flag wins over it.
    func number(_ key: String, flag: Float?) throws(ServiceError) -> Float? {
        if let flag { return flag }
        guard let text = metadata[key] else { return nil }
        guard let value = Float(text) else {
            throw ServiceError(.invalidRequest, "\(path): the metadata's \(key) is `\(text)`, not a number.")
        }
        return value
    }
}
