// SPDX-License-Identifier: Apache-2.0

/// The number format of a KV cache, stated by a model and used in the blocks of its sequences.
///
/// Tensors on the wire have a ``DataType``, which may differ from the cache's format. Read back, every format has one
/// dtype: `rowType`. The raw value is the format's byte on the wire and in the store, and its number in the C kernels;
/// it never changes.
public enum CacheFormat: UInt8, CaseIterable, Sendable {
    case bfloat16 = 1
    case float16 = 2
    case float32 = 3
    /// Bytes with a scale for each token and KV head. A number of a key that stands out is kept apart, and keys are rotated,
    /// so that others are spread over all dimensions.
    case int8 = 4
    /// e4m3 with a scale for each token and KV head. What is e4m3 times a power of two stays what it is.
    case fp8 = 5

    /// The dtype in which keys and values are read back: exactly the numbers in the cache, except for the rotation of
    /// `int8`, which is undone in Float32. Written again they become the same bytes.
    public var rowType: DataType {
        switch self {
        case .bfloat16: .bfloat16
        case .float16: .float16
        case .float32, .int8, .fp8: .float32
        }
    }

    /// Bytes of a number in a block.
    public var elementByteCount: Int {
        switch self {
        case .bfloat16, .float16: 2
        case .float32: 4
        case .int8, .fp8: 1
        }
    }

    /// Of the scale that a token's key, or its value, has for each KV head; 0 where there is none.
    public var scaleByteCount: Int { hasScales ? 4 : 0 }

    public var hasScales: Bool { self == .int8 || self == .fp8 }

    /// Of the word that a token's key has for each KV head, with a number that stands out; 0 where there is none.
    public var wordByteCount: Int { hasWords ? 4 : 0 }

    public var hasWords: Bool { self == .int8 }

    /// The name in options, files and messages: `bf16`, `f16`, `f32`, `int8`, `fp8`.
    public var name: String {
        switch self {
        case .bfloat16: "bf16"
        case .float16: "f16"
        case .float32: "f32"
        case .int8: "int8"
        case .fp8: "fp8"
        }
    }

    /// Those that keep rows as they are, each in the place of its dtype.
    public static let ofRows = DataType.allCases.map(CacheFormat.init)

    /// The names that a model may state, as a message lists them.
    public static let names = "bf16, f16, f32, int8 or fp8"

    public init?(name: String) {
        guard let match = CacheFormat.allCases.first(where: { $0.name == name.lowercased() }) else { return nil }
        self = match
    }

    /// The format that stores numbers of a dtype without rounding.
    public init(_ rowType: DataType) {
        switch rowType {
        case .bfloat16: self = .bfloat16
        case .float16: self = .float16
        case .float32: self = .float32
        }
    }
}
