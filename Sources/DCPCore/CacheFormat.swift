/// How a KV cache keeps its numbers: what a model states, and what the blocks of its sequences are made of.
///
/// Rows on the wire have a ``DataType``, which need not be the one of their cache. Every format is one dtype of rows when it is
/// read back: `rowType`.
///
/// The raw value is the byte that stands for it on the wire and in the store, and the number that the kernels in C know it by;
/// it never changes.
public enum CacheFormat: UInt8, CaseIterable, Sendable {
    case bfloat16 = 1
    case float16 = 2
    case float32 = 3

    /// What keys and values are rounded to when a step brings them, and read back as.
    public var rowType: DataType {
        switch self {
        case .bfloat16: .bfloat16
        case .float16: .float16
        case .float32: .float32
        }
    }

    /// Of a number in a block.
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

    /// The format that keeps rows as they are.
    public init(_ rowType: DataType) {
        switch rowType {
        case .bfloat16: self = .bfloat16
        case .float16: self = .float16
        case .float32: self = .float32
        }
    }
}
