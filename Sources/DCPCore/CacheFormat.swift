/// The number format of a KV cache, stated by a model and used in the blocks of its sequences.
///
/// Tensors on the wire have a ``DataType``, which may differ from the cache's format. Read back, every format has one
/// dtype: `rowType`. The raw value is the format's byte on the wire and in the store, and its number in the C kernels;
/// it never changes.
public enum CacheFormat: UInt8, CaseIterable, Sendable {
    case bfloat16 = 1
    case float16 = 2
    case float32 = 3

    /// The dtype to which keys and values of a step are rounded, and in which they are read back.
    public var rowType: DataType {
        switch self {
        case .bfloat16: .bfloat16
        case .float16: .float16
        case .float32: .float32
        }
    }

    /// Bytes of a number in a block.
    public var elementByteCount: Int {
        switch self {
        case .bfloat16, .float16: 2
        case .float32: 4
        }
    }

    /// The name in options, files and messages: `bf16`, `f16`, `f32`.
    public var name: String {
        switch self {
        case .bfloat16: "bf16"
        case .float16: "f16"
        case .float32: "f32"
        }
    }

    /// All names, as a message lists them.
    public static let names = "bf16, f16 or f32"

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
