// SPDX-License-Identifier: Apache-2.0

public import DCPCore

/// Heads and dimensions of what is measured: `32x8x128` is Hq x Hkv x D, `32x8x192x128` has its own Dk and Dv, and
/// `128x1x576x512 latent` values that are the first dimensions of its keys.
public struct AttentionShape: Hashable, Sendable, CustomStringConvertible {
    public let queryHeads: Int
    public let kvHeads: Int
    public let keyDim: Int
    public let valueDim: Int
    public let isLatent: Bool

    /// Shapes of models that many people know.
    public static let named: [(name: String, text: String)] = [
        ("llama-8b", "32x8x128"), ("llama-70b", "64x8x128"), ("smollm2-135m", "9x3x64"),
    ]

    /// - Parameter isLatent: whether values are the first Dv dimensions of keys.
    /// - Throws: `.invalidConfiguration` with the text and the forms there are; `.invalidModel` for numbers that no
    ///   model may have.
    public init(_ text: String, isLatent: Bool = false) throws(ServiceError) {
        let written = Self.named.first { $0.name == text.lowercased() }?.text ?? text
        let numbers = written.lowercased().split(separator: "x", omittingEmptySubsequences: false).map {
            $0.allSatisfy(\.isWholeNumber) ? Int($0) : nil
        }
        guard (3...4).contains(numbers.count), let queryHeads = numbers[0], let kvHeads = numbers[1],
            let keyDim = numbers[2], let valueDim = numbers[numbers.count - 1]
        else {
            let names = Self.named.map(\.name).joined(separator: ", ")
            throw ServiceError(
                .invalidConfiguration,
                "\(text.debugDescription) is not a shape; write HqxHkvxD as 32x8x128, HqxHkvxDkxDv as 32x8x192x128, or "
                    + "one of \(names).")
        }
        self.queryHeads = queryHeads
        self.kvHeads = kvHeads
        self.keyDim = keyDim
        self.valueDim = valueDim
        self.isLatent = isLatent
        _ = try attention(.all)
    }

    /// A layer of this shape.
    /// - Throws: `.invalidModel` for numbers that no model may have.
    func attention(_ visibility: Visibility) throws(ServiceError) -> LayerAttention {
        try LayerAttention(
            queryHeads: queryHeads, kvHeads: kvHeads, keyDim: keyDim,
            values: isLatent ? .leading(valueDim) : .own(valueDim), scale: LayerAttention.defaultScale(keyDim: keyDim),
            visibility: visibility)
    }

    /// A model whose layers are all of this shape.
    /// - Throws: `.invalidModel` for numbers that no model may have.
    public func model(_ format: CacheFormat, layers: Int = 1) throws(ServiceError) -> ModelDescription {
        try ModelDescription(layers: Array(repeating: attention(.all), count: layers), kvFormat: format)
    }

    /// Whether all pairs can be measured, before minutes of measuring the first of them.
    /// - Throws: `.invalidModel`.
    static func check(_ shapes: [AttentionShape], _ formats: [CacheFormat]) throws(ServiceError) {
        for shape in shapes {
            for format in formats { _ = try shape.model(format) }
        }
    }

    public var description: String {
        (keyDim == valueDim ? "\(queryHeads)x\(kvHeads)x\(keyDim)" : "\(queryHeads)x\(kvHeads)x\(keyDim)x\(valueDim)")
            + (isLatent ? " latent" : "")
    }
}
