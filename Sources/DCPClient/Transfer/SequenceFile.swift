public import DCPCore

/// A sequence in a safetensors file: for each layer its keys and values as the cache holds them.
///
/// | tensor | shape |
/// |---|---|
/// | `layers.<l>.k` | `[T, Hkv, Dk]` in the model's KV dtype |
/// | `layers.<l>.v` | `[T, Hkv, Dv]` in the model's KV dtype |
///
/// The metadata has `format` (`dcp-sequence`), `format_version` (`1`), `sequence`, `model`, `length` and the model's shape:
/// `layers`, `query_heads`, `kv_heads`, `key_dim`, `value_dim`, `kv_dtype`, `scale`, and `softcap` when it has one. Nothing in
/// it depends on the cluster's shape.
public struct SequenceFile: Sendable {
    static let format = "dcp-sequence"
    static let formatVersion = 1

    public let path: String
    public let sequence: String
    public let model: String
    public let shape: ModelShape
    /// T, tokens.
    public let length: Int
    let keys: [SafetensorsTensor]
    let values: [SafetensorsTensor]

    /// Opens a file and checks all that can be checked without a cluster.
    /// - Throws: `.invalidRequest`, naming file, tensor or key, value and remedy.
    public init(_ path: String) throws(ServiceError) {
        let file = try SafetensorsFile.open(path)
        let metadata = Metadata(path: path, values: file.metadata)
        try metadata.require("format", Self.format)
        try metadata.require("format_version", "\(Self.formatVersion)")
        self.path = path
        sequence = try metadata.text("sequence")
        model = try metadata.text("model")
        length = try metadata.number("length")
        guard let dataType = DataType(name: try metadata.text("kv_dtype")) else {
            throw metadata.wrong("kv_dtype", "bf16, f16 or f32")
        }
        do throws(ServiceError) {
            shape = try ModelShape(
                layers: metadata.number("layers"), queryHeads: metadata.number("query_heads"),
                kvHeads: metadata.number("kv_heads"), keyDim: metadata.number("key_dim"),
                valueDim: metadata.number("value_dim"), scale: metadata.float("scale"),
                softcap: file.metadata["softcap"] == nil ? nil : metadata.float("softcap"), kvDataType: dataType)
        } catch {
            throw ServiceError(.invalidRequest, "\(path): \(error.message)")
        }
        var (keys, values): ([SafetensorsTensor], [SafetensorsTensor]) = ([], [])
        for layer in 0..<shape.layers {
            keys.append(try Self.tensor(Self.keys(layer), of: file, shape, length, dim: shape.keyDim))
            values.append(try Self.tensor(Self.values(layer), of: file, shape, length, dim: shape.valueDim))
        }
        (self.keys, self.values) = (keys, values)
    }

    private static func tensor(
        _ name: String, of file: SafetensorsFile, _ shape: ModelShape, _ length: Int, dim: Int
    ) throws(ServiceError) -> SafetensorsTensor {
        let tensor = try file.tensor(named: name)
        let expected = [length, shape.kvHeads, dim]
        guard tensor.shape == expected, tensor.dataType == shape.kvDataType else {
            throw ServiceError(
                .invalidRequest,
                "\(file.path): tensor \(name) is \(tensor.dataType.name) \(tensor.shape), the metadata says "
                    + "\(shape.kvDataType.name) \(expected); export the sequence again.")
        }
        return tensor
    }

    static func keys(_ layer: Int) -> String { "layers.\(layer).k" }
    static func values(_ layer: Int) -> String { "layers.\(layer).v" }

    /// Keys and values of some tokens of a layer.
    func rows(layer: Int, _ tokens: Range<Int>) throws(ServiceError) -> (keys: [UInt8], values: [UInt8]) {
        (
            try keys[layer].withRows(tokens) { (bytes) throws(ServiceError) in Array(bytes) },
            try values[layer].withRows(tokens) { (bytes) throws(ServiceError) in Array(bytes) }
        )
    }

    /// A writer of a file for a sequence; appending to its tensors is the caller's.
    static func writer(
        _ path: String, sequence: String, model: String, shape: ModelShape, length: Int
    ) throws(ServiceError) -> SafetensorsWriter {
        var metadata = [
            "format": format, "format_version": "\(formatVersion)", "sequence": sequence, "model": model,
            "length": "\(length)", "layers": "\(shape.layers)", "query_heads": "\(shape.queryHeads)",
            "kv_heads": "\(shape.kvHeads)", "key_dim": "\(shape.keyDim)", "value_dim": "\(shape.valueDim)",
            "kv_dtype": shape.kvDataType.name, "scale": "\(shape.scale)",
        ]
        if let softcap = shape.softcap { metadata["softcap"] = "\(softcap)" }
        let tensors = (0..<shape.layers).flatMap { layer in
            [
                SafetensorsWriter.Declaration(
                    name: keys(layer), dataType: shape.kvDataType, shape: [length, shape.kvHeads, shape.keyDim]),
                SafetensorsWriter.Declaration(
                    name: values(layer), dataType: shape.kvDataType, shape: [length, shape.kvHeads, shape.valueDim]),
            ]
        }
        return try SafetensorsWriter(path: path, tensors: tensors, metadata: metadata)
    }
}

extension SequenceFile {
    /// The metadata as it is read: every key that is missing or wrong is named.
    private struct Metadata {
        let path: String
        let values: [String: String]

        func wrong(_ key: String, _ expected: String) -> ServiceError {
            let found = values[key].map { "is \($0.debugDescription)" } ?? "is missing"
            return ServiceError(
                .invalidRequest,
                "\(path): the metadata's `\(key)` \(found), not \(expected); give a file that `dcpctl sequence export` of "
                    + "this release wrote.")
        }

        func require(_ key: String, _ value: String) throws(ServiceError) {
            guard values[key] == value else { throw wrong(key, "`\(value)`") }
        }

        func text(_ key: String) throws(ServiceError) -> String {
            guard let value = values[key], !value.isEmpty else { throw wrong(key, "a name") }
            return value
        }

        func number(_ key: String) throws(ServiceError) -> Int {
            guard let value = values[key].flatMap({ Int($0) }), value >= 0 else { throw wrong(key, "a whole number") }
            return value
        }

        func float(_ key: String) throws(ServiceError) -> Float {
            guard let value = values[key].flatMap({ Float($0) }) else { throw wrong(key, "a number") }
            return value
        }
    }
}
