// SPDX-License-Identifier: Apache-2.0

/// The attention of one kind of layer: only the properties that a KV cache and a kernel need.
public struct LayerAttention: Hashable, Sendable {
    /// The location of a layer's values.
    public enum Values: Hashable, Sendable {
        /// Stored separately, with this many dimensions.
        case own(Int)
        /// The first dimensions of the keys, this many: they are neither sent nor stored. Latent attention, as
        /// DeepSeek's absorbed form computes it (DeepSeek-V2, arXiv 2405.04434, section 2.1).
        case leading(Int)

        /// Dv, of a value and of an output.
        public var dim: Int {
            switch self {
            case .own(let dim), .leading(let dim): dim
            }
        }

        /// Numbers sent and stored for the value of one token and KV head: Dv, or 0 if the values are part of the keys.
        public var ownDim: Int {
            switch self {
            case .own(let dim): dim
            case .leading: 0
            }
        }
    }

    /// Hq, over all head groups.
    public let queryHeads: Int
    /// Hkv, over all head groups. Divides `queryHeads`.
    public let kvHeads: Int
    /// Dk, the dimension of a query and of a key.
    public let keyDim: Int
    public let values: Values
    /// Multiplies every score.
    public let scale: Float
    /// c of `c * tanh(score / c)`, applied after the scale; nil leaves scores as they are.
    public let softcap: Float?
    public let visibility: Visibility
    /// Whether each query head has a sink: a learned logit in its denominator, without a value. The logits belong to
    /// the layer, see `ModelDescription.sinks`.
    public let hasSinks: Bool

    public static let headsMax = 1024
    public static let keyDims = 8...576
    public static let valueDims = 8...512
    /// A window is at most as long as a position can be.
    public static let windowMax = Int(UInt32.max)

    /// Dv, the dimension of a value and of an output.
    public var valueDim: Int { values.dim }
    /// See `Values.ownDim`.
    public var ownValueDim: Int { values.ownDim }

    /// Keys and values of one token, all KV heads, in a dtype.
    public func rowByteCount(_ dataType: DataType) -> Int { kvHeads * (keyDim + ownValueDim) * dataType.byteCount }

    /// The same as a cache keeps them.
    public func keptByteCount(_ format: CacheFormat) -> Int {
        let scales = (ownValueDim > 0 ? 2 : 1) * format.scaleByteCount
        return kvHeads * ((keyDim + ownValueDim) * format.elementByteCount + scales + format.wordByteCount)
    }

    /// - Throws: `.invalidModel`, with the value, the limit and the remedy.
    public init(
        queryHeads: Int, kvHeads: Int, keyDim: Int, values: Values, scale: Float, softcap: Float? = nil,
        visibility: Visibility = .all, hasSinks: Bool = false
    ) throws(ServiceError) {
        func require(_ holds: Bool, _ message: @autoclosure () -> String) throws(ServiceError) {
            guard holds else { throw ServiceError(.invalidModel, message()) }
        }
        try require(
            (1...Self.headsMax).contains(queryHeads),
            "\(queryHeads) query heads are outside 1...\(Self.headsMax); correct the number of heads.")
        try require(
            (1...queryHeads).contains(kvHeads) && queryHeads % kvHeads == 0,
            "\(kvHeads) KV heads do not divide \(queryHeads) query heads; grouped-query attention needs a whole number "
                + "of query heads for each KV head. Correct one of the two.")
        self.queryHeads = queryHeads
        self.kvHeads = kvHeads
        self.keyDim = keyDim
        self.values = values
        self.scale = scale
        self.softcap = softcap
        self.visibility = visibility
        self.hasSinks = hasSinks
        for (name, dim, limits) in [("key", keyDim, Self.keyDims), ("value", valueDim, Self.valueDims)] {
            try require(
                limits.contains(dim) && dim % 2 == 0,
                "The \(name) head dimension \(dim) is not an even number in \(limits.lowerBound)...\(limits.upperBound); "
                    + "pad the heads with zeros.")
        }
        if case .leading(let dim) = values {
            try require(
                dim <= keyDim,
                "The values are the first \(dim) dimensions of the keys, but the keys have \(keyDim); correct "
                    + "`value_dim`.")
        }
        try require(
            scale.isFinite && scale > 0, "The scale \(scale) is not a positive finite number; correct `scale`.")
        if let softcap {
            try require(
                softcap.isFinite && softcap > 0,
                "The soft cap \(softcap) is not a positive finite number; leave it out for none.")
        }
        if case .window(let tokens) = visibility {
            try require(
                (1...Self.windowMax).contains(tokens),
                "A window of \(tokens) tokens is outside 1...\(Self.windowMax); leave it out for none.")
        }
    }

    /// The default factor of a model: `1 / sqrt(Dk)`, rounded once, as in a file that states it.
    public static func defaultScale(keyDim: Int) -> Float { Float(1 / Double(keyDim).squareRoot()) }

    /// The differences between two kinds, as `name: this, not that`; empty when they are equal.
    public func differences(from other: LayerAttention) -> [String] {
        var found: [String] = []
        func compare<Value: Equatable>(_ name: String, _ a: Value, _ b: Value) {
            if a != b { found.append("\(name): \(a), not \(b)") }
        }
        func text(_ softcap: Float?) -> String { softcap.map { "\($0)" } ?? "none" }
        compare("query heads", queryHeads, other.queryHeads)
        compare("KV heads", kvHeads, other.kvHeads)
        compare("key dim", keyDim, other.keyDim)
        compare("value dim", valueDim, other.valueDim)
        compare("values", ownValueDim == 0 ? "of the keys" : "own", other.ownValueDim == 0 ? "of the keys" : "own")
        compare("scale", scale, other.scale)
        compare("soft cap", text(softcap), text(other.softcap))
        compare("visibility", visibility, other.visibility)
        compare(
            "sinks", hasSinks ? "one for each query head" : "none", other.hasSinks ? "one for each query head" : "none")
        return found
    }
}
