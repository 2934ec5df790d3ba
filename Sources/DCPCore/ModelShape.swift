/// The attention shape of a model: what a KV cache and a kernel need to know, and nothing else of the model.
public struct ModelShape: Hashable, Sendable {
    public let layers: Int
    /// Hq, over all head groups.
    public let queryHeads: Int
    /// Hkv, over all head groups. Divides `queryHeads`.
    public let kvHeads: Int
    /// Dk, the dimension of a query and of a key.
    public let keyDim: Int
    /// Dv, the dimension of a value and of an output.
    public let valueDim: Int
    /// Multiplies every score.
    public let scale: Float
    /// c of `c * tanh(score / c)`, applied after the scale; nil leaves scores as they are.
    public let softcap: Float?
    /// What keys and values are rounded to, once, when a step brings them; attention then computes in Float32.
    public let kvDataType: DataType

    public static let layersMax = 1024
    public static let headsMax = 1024
    public static let headDims = 8...256

    /// - Throws: `.invalidModel`, with the value, the limit and the remedy.
    public init(
        layers: Int, queryHeads: Int, kvHeads: Int, keyDim: Int, valueDim: Int, scale: Float, softcap: Float?,
        kvDataType: DataType
    ) throws(ServiceError) {
        func require(_ holds: Bool, _ message: @autoclosure () -> String) throws(ServiceError) {
            guard holds else { throw ServiceError(.invalidModel, message()) }
        }
        try require(
            (1...Self.layersMax).contains(layers),
            "\(layers) layers are outside 1...\(Self.layersMax); correct the model's `layers`.")
        try require(
            (1...Self.headsMax).contains(queryHeads),
            "\(queryHeads) query heads are outside 1...\(Self.headsMax); correct the shape of q.")
        try require(
            (1...queryHeads).contains(kvHeads) && queryHeads % kvHeads == 0,
            "\(kvHeads) KV heads do not divide \(queryHeads) query heads; grouped-query attention needs a whole number "
                + "of query heads for each KV head. Correct the shapes of q, k and v.")
        for (name, dim) in [("key", keyDim), ("value", valueDim)] {
            try require(
                Self.headDims.contains(dim) && dim % 2 == 0,
                "The \(name) head dimension \(dim) is not an even number in "
                    + "\(Self.headDims.lowerBound)...\(Self.headDims.upperBound); pad the heads with zeros.")
        }
        try require(
            scale.isFinite && scale > 0, "The scale \(scale) is not a positive finite number; correct `scale`.")
        if let softcap {
            try require(
                softcap.isFinite && softcap > 0,
                "The soft cap \(softcap) is not a positive finite number; leave it out for none.")
        }
        self.layers = layers
        self.queryHeads = queryHeads
        self.kvHeads = kvHeads
        self.keyDim = keyDim
        self.valueDim = valueDim
        self.scale = scale
        self.softcap = softcap
        self.kvDataType = kvDataType
    }

    /// The attention of a layer.
    public func attention(ofLayer layer: Int) -> LayerAttention {
        do throws(ServiceError) {
            return try LayerAttention(
                queryHeads: queryHeads, kvHeads: kvHeads, keyDim: keyDim, values: .own(valueDim), scale: scale,
                softcap: softcap)
        } catch {
            preconditionFailure("The limits of a model are those of its layers: \(error)")
        }
    }

    /// The factor a model uses unless it says otherwise: `1 / sqrt(Dk)`.
    public static func defaultScale(keyDim: Int) -> Float { 1 / Float(keyDim).squareRoot() }

    /// The differences between two shapes, as `name: this, not that`; empty when they are equal.
    public func differences(from other: ModelShape) -> [String] {
        var found: [String] = []
        func compare<Value: Equatable>(_ name: String, _ a: Value, _ b: Value) {
            if a != b { found.append("\(name): \(a), not \(b)") }
        }
        compare("layers", layers, other.layers)
        compare("query heads", queryHeads, other.queryHeads)
        compare("KV heads", kvHeads, other.kvHeads)
        compare("key dim", keyDim, other.keyDim)
        compare("value dim", valueDim, other.valueDim)
        compare("scale", scale, other.scale)
        compare("soft cap", softcap.map { "\($0)" } ?? "none", other.softcap.map { "\($0)" } ?? "none")
        compare("KV dtype", kvDataType.name, other.kvDataType.name)
        return found
    }
}
