// SPDX-License-Identifier: Apache-2.0

/// The description of a model: the attention of each layer, the format of the KV cache, and an identifier of the
/// weights with which keys and values were computed.
///
/// Layers may differ in everything except the KV format. Equal layers are of one *kind*; kinds and runs of layers are
/// derived, so that two descriptions of the same layers are equal.
public struct ModelDescription: Hashable, Sendable {
    /// The format to which keys and values are rounded once, when a step appends them; attention then computes in
    /// Float32.
    public let kvFormat: CacheFormat
    /// The different kinds, in the order of their first layers.
    public let kinds: [LayerAttention]
    /// One logit for each query head, over all head groups; empty for a layer without sinks.
    public let sinks: [[Float]]
    /// A text from the client that identifies weights and rotary settings, such as a checkpoint's hash, or nil.
    public let revision: String?
    private let kindOfLayer: [UInt16]

    public static let layersMax = 1024
    /// UTF-8 bytes.
    public static let revisionByteCountMax = 255
    /// Encoded bytes of all models of a cluster, names included. A rank registers with its models in one frame, of at
    /// most 16 MiB of fields, and one that has missed removals holds both the old models and the new ones.
    public static let totalByteCountMax = 7 << 20

    public var layers: Int { kindOfLayer.count }
    public subscript(layer: Int) -> LayerAttention { kinds[Int(kindOfLayer[layer])] }
    /// Keys and values of one token in all layers, over all head groups.
    public var keptByteCount: Int { kindOfLayer.reduce(0) { $0 + kinds[Int($1)].keptByteCount(kvFormat) } }

    /// The same in the dtype that rows are read back as.
    public var rowByteCount: Int { kindOfLayer.reduce(0) { $0 + kinds[Int($1)].rowByteCount(kvFormat.rowType) } }

    /// - Parameters:
    ///   - layers: the attention of each.
    ///   - kvFormat: how the cache keeps keys and values.
    ///   - sinks: for each layer, one number for each query head if its kind has sinks, otherwise none.
    ///   - revision: what identifies weights and settings, such as a hash; nil for none.
    /// - Throws: `.invalidModel`, with the value, the limit and the remedy.
    public init(
        layers: [LayerAttention], kvFormat: CacheFormat, sinks: [[Float]]? = nil, revision: String? = nil
    ) throws(ServiceError) {
        func require(_ holds: Bool, _ message: @autoclosure () -> String) throws(ServiceError) {
            guard holds else { throw ServiceError(.invalidModel, message()) }
        }
        try require(
            (1...Self.layersMax).contains(layers.count),
            "\(layers.count) layers are outside 1...\(Self.layersMax); correct the model's `layers`.")
        let sinks = sinks ?? Array(repeating: [], count: layers.count)
        try require(
            sinks.count == layers.count,
            "There are sinks for \(sinks.count) layers, but the model has \(layers.count) layers.")
        for (layer, logits) in sinks.enumerated() {
            let expected = layers[layer].hasSinks ? layers[layer].queryHeads : 0
            try require(
                logits.count == expected,
                "Layer \(layer) has \(logits.count) sinks, its attention \(expected); give one for each query head of a "
                    + "layer with sinks.")
            try require(
                logits.allSatisfy(\.isFinite),
                "A sink of layer \(layer) is NaN or infinite; correct the model's weights.")
        }
        for (layer, kind) in layers.enumerated() where kvFormat.hasScales {
            let others = "choose bf16, f16 or f32 as the cache format."
            try require(
                kind.ownValueDim > 0,
                "A KV cache of \(kvFormat.name) cannot keep layer \(layer), whose values are the first "
                    + "\(kind.valueDim) dimensions of its keys (latent attention): it needs values of their own; "
                    + others)
            try require(
                kind.keyDim % 4 == 0 && kind.valueDim % 4 == 0,
                "A KV cache of \(kvFormat.name) cannot keep layer \(layer), of dimensions \(kind.keyDim) and "
                    + "\(kind.valueDim): it needs multiples of 4. Pad the heads with zeros, or " + others)
        }
        if let revision {
            try require(
                (1...Self.revisionByteCountMax).contains(revision.utf8.count),
                "A revision of \(revision.utf8.count) bytes is outside 1...\(Self.revisionByteCountMax); give a hash of the "
                    + "weights and settings, or none.")
        }
        var kinds: [LayerAttention] = []
        var kindIndices: [LayerAttention: UInt16] = [:]
        kindOfLayer = layers.map { layer in
            if let known = kindIndices[layer] { return known }
            let index = UInt16(kinds.count)
            kindIndices[layer] = index
            kinds.append(layer)
            return index
        }
        self.kinds = kinds
        self.kvFormat = kvFormat
        self.sinks = sinks
        self.revision = revision
    }

    /// A model with equal layers, without sinks.
    public init(
        layers: Int, queryHeads: Int, kvHeads: Int, keyDim: Int, valueDim: Int, scale: Float, softcap: Float?,
        kvFormat: CacheFormat
    ) throws(ServiceError) {
        let kind = try LayerAttention(
            queryHeads: queryHeads, kvHeads: kvHeads, keyDim: keyDim, values: .own(valueDim), scale: scale,
            softcap: softcap)
        // The limit is checked before the layers are created.
        let count = min(max(layers, 0), Self.layersMax + 1)
        try self.init(layers: Array(repeating: kind, count: count), kvFormat: kvFormat)
    }

    /// Consecutive layers of one kind.
    public struct Run: Hashable, Sendable {
        /// Its index among `kinds`.
        public var kind: Int
        public var layers: Range<Int>
    }

    /// Neighbours differ in kind.
    public var runs: [Run] {
        var runs: [Run] = []
        for (layer, kind) in kindOfLayer.enumerated() {
            if let last = runs.indices.last, runs[last].kind == Int(kind) {
                runs[last].layers = runs[last].layers.lowerBound..<layer + 1
            } else {
                runs.append(Run(kind: Int(kind), layers: layer..<layer + 1))
            }
        }
        return runs
    }

    /// The differences to another description, as `name: this, not that`; empty if there are none. Without a revision,
    /// any revision matches.
    public func differences(from other: ModelDescription) -> [String] {
        var found: [String] = []
        if layers != other.layers { found.append("layers: \(layers), not \(other.layers)") }
        if kvFormat != other.kvFormat {
            found.append("cache format: \(kvFormat.name), not \(other.kvFormat.name)")
        }
        if let revision, revision != other.revision {
            found.append("revision: `\(revision)`, not \(other.revision.map { "`\($0)`" } ?? "none")")
        }
        guard layers == other.layers else { return found }
        // The first differing layer stands for all layers with the same difference.
        var told: Set<[Int]> = []
        for layer in 0..<layers where told.insert([Int(kindOfLayer[layer]), Int(other.kindOfLayer[layer])]).inserted {
            found += self[layer].differences(from: other[layer]).map { "layer \(layer), \($0)" }
        }
        if let layer = (0..<layers).first(where: {
            self[$0].hasSinks && other[$0].hasSinks && sinks[$0] != other.sinks[$0]
        }) {
            found.append("the sinks of layer \(layer)")
        }
        return found
    }
}
