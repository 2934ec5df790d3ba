// SPDX-License-Identifier: Apache-2.0

internal import DCPClient
public import DCPCore
internal import DCPFiles
internal import DCPSafetensors
internal import DCPWire
internal import Foundation

/// A sequence in a safetensors file: for each layer its keys and values.
///
/// | tensor | shape |
/// |---|---|
/// | `layers.<l>.k` | `[T, Hkv, Dk]` in BF16, F16, F32, or in I8 or F8_E4M3 with scales |
/// | `layers.<l>.v` | `[T, Hkv, Dv]` in the same |
/// | `layers.<l>.k_scale`, `layers.<l>.v_scale` | `[T, Hkv]` in F32; only of I8 and F8_E4M3 |
/// | `token_ids` | `[T]` in U32; only with ids |
/// | `annotation` | `[n]` in U8; only with an annotation |
///
/// If a layer's values are part of its keys, there is no `v`. The metadata has `format` (`dcp-sequence`),
/// `format_version` (`4`), `sequence`, `model`, `length`, `scope`, which may be empty, and `description`:
/// `ModelDescription.encoded` in base64, with the revision. `key_rotation` says that keys in I8 are rotated as a cache
/// keeps them. Nothing in it depends on the cluster's shape.
public struct SequenceFile: Sendable {
    static let format = "dcp-sequence"
    static let formatVersion = 4
    static let annotationName = "annotation"
    /// The rotation of the keys of `int8`, see *Byte formats*: signs that never change, then Walsh-Hadamard transforms.
    static let keyRotation = "signs-walsh-hadamard"

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
    let keys: [FileRows]
    /// nil where they are a part of the keys.
    let values: [FileRows?]

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
        description = described
        (keys, values) = try Self.layers(
            of: file, length: length, described, areKeysRotated: try metadata.rotatesKeys())
    }

    private static func layers(
        of file: SafetensorsFile, length: Int, _ description: ModelDescription, areKeysRotated: Bool
    ) throws(ServiceError) -> (keys: [FileRows], values: [FileRows?]) {
        var (keys, values): ([FileRows], [FileRows?]) = ([], [])
        for layer in 0..<description.layers {
            let attention = description[layer]
            let key = try FileRows(
                Self.keys(layer), of: file, shape: [length, attention.kvHeads, attention.keyDim],
                areRotated: areKeysRotated)
            keys.append(key)
            guard attention.ownValueDim > 0 else {
                values.append(nil)
                continue
            }
            let value = try FileRows(
                Self.values(layer), of: file, shape: [length, attention.kvHeads, attention.ownValueDim],
                areRotated: false)
            guard value.dataType == key.dataType else {
                throw ServiceError(
                    .invalidRequest,
                    "\(file.path): \(Self.keys(layer)) has rows of \(key.dataType.name) and \(Self.values(layer)) of "
                        + "\(value.dataType.name); store both in one dtype.")
            }
            values.append(value)
        }
        return (keys, values)
    }

    /// Bytes of keys and values in the file.
    var byteCount: Int {
        keys.reduce(0) { $0 + $1.byteCount } + values.reduce(0) { $0 + ($1?.byteCount ?? 0) }
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

    /// Keys and values of some tokens of a layer, in the file's dtype.
    func rows(layer: Int, _ tokens: Range<Int>) throws(ServiceError) -> (keys: [UInt8], values: [UInt8]) {
        (try keys[layer].rows(tokens), try values[layer]?.rows(tokens) ?? [])
    }

    /// The same as a cache of the model gives them back.
    func rowsReadBack(layer: Int, _ tokens: Range<Int>) throws(ServiceError) -> (keys: [UInt8], values: [UInt8]) {
        let (rows, attention, format) = (try rows(layer: layer, tokens), description[layer], description.kvFormat)
        let dataType = keys[layer].dataType
        return (
            format.readBack(rows.keys, of: dataType, dim: attention.keyDim, areKeys: true),
            format.readBack(rows.values, of: dataType, dim: attention.ownValueDim, areKeys: false)
        )
    }

    /// A writer of a file for a sequence; appending to its tensors is the caller's.
    static func writer(
        _ path: String, of sequence: SequenceHandle, length: Int, _ rows: RowsWriter, tokenIDs: [UInt32]?,
        annotation: [UInt8]?
    ) throws(ServiceError) -> SafetensorsWriter {
        let description = sequence.model.description
        var metadata = [
            "format": format, "format_version": "\(formatVersion)", "sequence": sequence.record.name,
            "model": sequence.model.name, "length": "\(length)", "scope": sequence.record.scope,
            "description": Data(description.encoded).base64EncodedString(),
        ]
        if rows.rotatesKeys { metadata[Metadata.keyRotation] = keyRotation }
        var tensors = (0..<description.layers).flatMap { layer in
            let attention = description[layer]
            let both = [(keys(layer), attention.keyDim), (values(layer), attention.ownValueDim)].filter { $0.1 > 0 }
            return both.flatMap { name, dim in
                rows.declarations(
                    name, shape: [length, attention.kvHeads, dim], areKeys: name == keys(layer))
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
        static let keyRotation = "key_rotation"

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

        /// Whether keys in I8 are rotated; without the key they are as a model has them.
        func rotatesKeys() throws(ServiceError) -> Bool {
            guard values[Self.keyRotation] != nil else { return false }
            try require(Self.keyRotation, SequenceFile.keyRotation)
            return true
        }
    }
}
