// SPDX-License-Identifier: Apache-2.0

/// The encoding of a model's description: on the wire, in the ranks' stores, in the coordinator's state and in sequence
/// files.
///
/// Integers are little-endian.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 1 | format, 1 |
/// | 1 | 1 | cache format, `CacheFormat.rawValue` |
/// | 2 | 1 | r, bytes of the revision; 0 for none |
/// | 3 | r | revision, UTF-8 |
/// | 3 + r | 2 | k, kinds |
/// | 5 + r + 24 i | 24 | kind i |
/// | 5 + r + 24 k | 2 | n, runs of layers |
/// | 7 + r + 24 k + 4 i | 4 | run i: kind (2), layers (2) |
/// | 7 + r + 24 k + 4 n | | for each layer with sinks, in their order: a Float32 for each query head |
///
/// A kind:
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 2 | query heads |
/// | 2 | 2 | KV heads |
/// | 4 | 2 | key dim |
/// | 6 | 2 | value dim |
/// | 8 | 4 | scale, bits of a Float32 |
/// | 12 | 4 | soft cap, bits of a Float32; 0 for none |
/// | 16 | 1 | values: 0 own, 1 leading dimensions of the keys |
/// | 17 | 1 | sinks: 0 none, 1 for each query head |
/// | 18 | 1 | visibility: 0 all, 1 window |
/// | 19 | 1 | 0 |
/// | 20 | 4 | tokens of the window; 0 for none |
extension ModelDescription {
    /// It rises when a byte changes its meaning.
    public static let format: UInt8 = 1

    public var encoded: [UInt8] {
        var bytes: [UInt8] = [Self.format, kvFormat.rawValue]
        func append<Value: FixedWidthInteger>(_ value: Value) {
            withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
        }
        let revision = Array((revision ?? "").utf8)
        append(UInt8(revision.count))
        bytes += revision
        append(UInt16(kinds.count))
        for kind in kinds {
            append(UInt16(kind.queryHeads))
            append(UInt16(kind.kvHeads))
            append(UInt16(kind.keyDim))
            append(UInt16(kind.valueDim))
            append(kind.scale.bitPattern)
            append((kind.softcap ?? 0).bitPattern)
            append(UInt8(kind.ownValueDim == 0 ? 1 : 0))
            append(UInt8(kind.hasSinks ? 1 : 0))
            switch kind.visibility {
            case .all:
                append(UInt16(0))
                append(UInt32(0))
            case .window(let tokens):
                append(UInt16(1))
                append(UInt32(tokens))
            }
        }
        let runs = runs
        append(UInt16(runs.count))
        for run in runs {
            append(UInt16(run.kind))
            append(UInt16(run.layers.count))
        }
        for logit in sinks.joined() { append(logit.bitPattern) }
        return bytes
    }

    /// - Throws: `.invalidModel` for another format, missing or surplus bytes, and invalid models.
    public init(encoded: some Collection<UInt8>) throws(ServiceError) {
        var reader = DescriptionReader(encoded)
        let format = try reader.next(UInt8.self)
        guard format == Self.format else {
            throw ServiceError(
                .invalidModel,
                "A model's description has format \(format), but this program reads \(Self.format); use programs of "
                    + "one version everywhere.")
        }
        let number = try reader.next(UInt8.self)
        guard let kvFormat = CacheFormat(rawValue: number) else { throw reader.broken("the cache format \(number)") }
        let revision = try reader.nextText(byteCount: Int(try reader.next(UInt8.self)))
        let kindCount = Int(try reader.next(UInt16.self))
        try reader.require(byteCount: kindCount * 24)
        var kinds: [LayerAttention] = []
        for _ in 0..<kindCount { kinds.append(try LayerAttention(from: &reader)) }
        let runCount = Int(try reader.next(UInt16.self))
        try reader.require(byteCount: runCount * 4)
        var layers: [LayerAttention] = []
        for _ in 0..<runCount {
            let kind = Int(try reader.next(UInt16.self)), count = Int(try reader.next(UInt16.self))
            guard kinds.indices.contains(kind) else { throw reader.broken("the kind \(kind) of \(kinds.count)") }
            guard (1...Self.layersMax - layers.count).contains(count) else {
                throw reader.broken("a run of \(count) layers after \(layers.count)")
            }
            layers += Array(repeating: kinds[kind], count: count)
        }
        try reader.require(byteCount: layers.reduce(0) { $0 + ($1.hasSinks ? $1.queryHeads * 4 : 0) })
        var sinks: [[Float]] = []
        for layer in layers {
            var logits: [Float] = []
            for _ in 0..<(layer.hasSinks ? layer.queryHeads : 0) {
                logits.append(Float(bitPattern: try reader.next(UInt32.self)))
            }
            sinks.append(logits)
        }
        guard reader.isAtEnd else { throw reader.broken("bytes left over") }
        try self.init(
            layers: layers, kvFormat: kvFormat, sinks: sinks, revision: revision.isEmpty ? nil : revision)
        // A model has exactly one encoding: bytes are equal if and only if the models are.
        guard self.encoded.elementsEqual(encoded) else {
            throw reader.broken("another form of a valid description")
        }
    }
}

extension LayerAttention {
    fileprivate init(from reader: inout DescriptionReader) throws(ServiceError) {
        let queryHeads = try reader.next(UInt16.self), kvHeads = try reader.next(UInt16.self)
        let keyDim = try reader.next(UInt16.self), valueDim = Int(try reader.next(UInt16.self))
        let scale = Float(bitPattern: try reader.next(UInt32.self))
        let softcap = Float(bitPattern: try reader.next(UInt32.self))
        let values = try reader.next(UInt8.self), sinks = try reader.next(UInt8.self)
        let visibility = try reader.next(UInt16.self), window = try reader.next(UInt32.self)
        guard values <= 1 else { throw reader.broken("values of the kind \(values)") }
        guard sinks <= 1 else { throw reader.broken("sinks of the kind \(sinks)") }
        guard visibility <= 1 else { throw reader.broken("a visibility of the kind \(visibility)") }
        try self.init(
            queryHeads: Int(queryHeads), kvHeads: Int(kvHeads), keyDim: Int(keyDim),
            values: values == 0 ? .own(valueDim) : .leading(valueDim), scale: scale,
            softcap: softcap == 0 ? nil : softcap, visibility: visibility == 0 ? .all : .window(Int(window)),
            hasSinks: sinks == 1)
    }
}

/// Decodes a description, and reports errors in it.
private struct DescriptionReader {
    private var left: ArraySlice<UInt8>

    init(_ bytes: some Collection<UInt8>) { left = ArraySlice(bytes) }

    var isAtEnd: Bool { left.isEmpty }

    func broken(_ what: String) -> ServiceError {
        ServiceError(.invalidModel, "The bytes of a model's description are damaged: they have \(what).")
    }

    func require(byteCount: Int) throws(ServiceError) {
        guard left.count >= byteCount else { throw broken("\(left.count) bytes where \(byteCount) are due") }
    }

    mutating func next<Value: FixedWidthInteger & UnsignedInteger>(_: Value.Type) throws(ServiceError) -> Value {
        let size = MemoryLayout<Value>.size
        try require(byteCount: size)
        defer { left.removeFirst(size) }
        return left.prefix(size).reversed().reduce(0) { $0 << 8 | Value($1) }
    }

    mutating func nextText(byteCount: Int) throws(ServiceError) -> String {
        try require(byteCount: byteCount)
        defer { left.removeFirst(byteCount) }
        guard let text = String(validating: left.prefix(byteCount), as: UTF8.self) else {
            throw broken("a revision that is not UTF-8")
        }
        return text
    }
}
