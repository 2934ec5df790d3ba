// SPDX-License-Identifier: Apache-2.0

internal import DCPClient
public import DCPCore
internal import DCPFiles
internal import DCPSafetensors
internal import DCPWire
internal import Foundation

/// A sequence in a safetensors file: for each layer its keys and values in the cache format.
///
/// | tensor | shape |
/// |---|---|
/// | `layers.<l>.k` | `[T, Hkv, Dk]` in the model's cache format |
/// | `layers.<l>.v` | `[T, Hkv, Dv]` in the model's cache format |
/// | `token_ids` | `[T]` in U32; only with ids |
/// | `annotation` | `[n]` in U8; only with an annotation |
///
/// If a layer's values are part of its keys, there is no `v`. The metadata has `format` (`dcp-sequence`),
/// `format_version` (`3`), `sequence`, `model`, `length`, `scope`, which may be empty, and `description`:
/// `ModelDescription.encoded` in base64, with the revision. Nothing in it depends on the cluster's shape.
public struct SequenceFile: Sendable {
    static let format = "dcp-sequence"
    static let formatVersion = 3
    static let annotationName = "annotation"

    public let path: String
    public let sequence: String
    public let model: String
    public let description: ModelDescription
    /// The scope of the sequence.
    public let scope: String
    /// T, tokens.
    public let length: Int
    /// One for each token; nil for a sequence without.
    let tokenIDs: [UInt32]?
    let annotation: [UInt8]?
    let keys: [SafetensorsTensor]
    /// nil where they are a part of the keys.
    let values: [SafetensorsTensor?]

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
        scope = metadata.values["scope"] ?? ""
        tokenIDs = try file.tokenIDs(count: length)
        annotation = try Self.annotation(of: file)
        guard let encoded = Data(base64Encoded: try metadata.text("description")) else {
            throw metadata.wrong("description", "a model's description in base64")
        }
        let described: ModelDescription
        do throws(ServiceError) {
            described = try ModelDescription(encoded: encoded)
        } catch {
            throw ServiceError(.invalidRequest, "\(path): \(error.message)")
        }
        let (length, description) = (length, described)
        var (keyTensors, valueTensors): ([SafetensorsTensor], [SafetensorsTensor?]) = ([], [])
        for layer in 0..<description.layers {
            let attention = description[layer]
            func tensor(_ name: String, dim: Int) throws(ServiceError) -> SafetensorsTensor {
                try Self.tensor(name, of: file, description.kvFormat.rowType, [length, attention.kvHeads, dim])
            }
            keyTensors.append(try tensor(Self.keys(layer), dim: attention.keyDim))
            valueTensors.append(
                attention.ownValueDim == 0 ? nil : try tensor(Self.values(layer), dim: attention.ownValueDim))
        }
        self.description = description
        (keys, values) = (keyTensors, valueTensors)
    }

    private static func tensor(
        _ name: String, of file: SafetensorsFile, _ dataType: DataType, _ expected: [Int]
    ) throws(ServiceError) -> SafetensorsTensor {
        let tensor = try file.tensor(named: name)
        guard tensor.shape == expected, tensor.dataType == dataType else {
            throw ServiceError(
                .invalidRequest,
                "\(file.path): tensor \(name) is \(tensor.dataType.name) \(tensor.shape), but the metadata says "
                    + "\(dataType.name) \(expected); export the sequence again.")
        }
        return tensor
    }

    private static func annotation(of file: SafetensorsFile) throws(ServiceError) -> [UInt8]? {
        guard let entry = file.entry(named: annotationName) else { return nil }
        guard entry.dataType == .uint8, entry.byteRange.count <= SequenceLimits.annotationByteCountMax else {
            throw ServiceError(
                .invalidRequest,
                "\(file.path): tensor \(annotationName) is \(entry.dataType.rawValue) \(entry.shape); it must be U8, "
                    + "at most \(SequenceLimits.annotationByteCountMax) bytes.")
        }
        return try file.bytes(of: entry)
    }

    static func keys(_ layer: Int) -> String { "layers.\(layer).k" }
    static func values(_ layer: Int) -> String { "layers.\(layer).v" }

    /// Keys and values of some tokens of a layer.
    func rows(layer: Int, _ tokens: Range<Int>) throws(ServiceError) -> (keys: [UInt8], values: [UInt8]) {
        (
            try keys[layer].withRows(tokens) { (bytes) throws(ServiceError) in Array(bytes) },
            try values[layer]?.withRows(tokens) { (bytes) throws(ServiceError) in Array(bytes) } ?? []
        )
    }

    /// A writer of a file for a sequence; appending to its tensors is the caller's.
    static func writer(
        _ path: String, of sequence: SequenceHandle, length: Int, tokenIDs: [UInt32]?, annotation: [UInt8]?
    ) throws(ServiceError) -> SafetensorsWriter {
        let description = sequence.model.description
        let metadata = [
            "format": format, "format_version": "\(formatVersion)", "sequence": sequence.record.name,
            "model": sequence.model.name, "length": "\(length)", "scope": sequence.record.scope,
            "description": Data(description.encoded).base64EncodedString(),
        ]
        var tensors = (0..<description.layers).flatMap { layer in
            let attention = description[layer]
            let rows = [(keys(layer), attention.keyDim), (values(layer), attention.ownValueDim)].filter { $0.1 > 0 }
            return rows.map { name, dim in
                SafetensorsWriter.Declaration(
                    name: name, dataType: description.kvFormat.rowType, shape: [length, attention.kvHeads, dim])
            }
        }
        if tokenIDs != nil {
            tensors.append(.init(name: SafetensorsFile.tokenIDsName, elements: .uint32, shape: [length]))
        }
        if let annotation { tensors.append(.init(name: annotationName, elements: .uint8, shape: [annotation.count])) }
        let writer = try SafetensorsWriter(path: path, tensors: tensors, metadata: metadata)
        try tokenIDs?.map(\.littleEndian).lendBytes { (bytes) throws(ServiceError) in
            try writer.append(bytes, to: SafetensorsFile.tokenIDsName)
        }
        try annotation?.lendBytes { (bytes) throws(ServiceError) in try writer.append(bytes, to: annotationName) }
        return writer
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
    }
}
