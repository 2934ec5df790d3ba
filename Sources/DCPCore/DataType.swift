/// The element type of a row of numbers: of the queries, keys and values of a step, and of what is read back out of a cache.
///
/// The raw value is the byte that stands for it on the wire and in the store; it never changes.
public enum DataType: UInt8, CaseIterable, Sendable {
    case bfloat16 = 1
    case float16 = 2
    case float32 = 3

    public var byteCount: Int {
        switch self {
        case .bfloat16, .float16: 2
        case .float32: 4
        }
    }

    /// The name in options and messages: `bf16`, `f16`, `f32`.
    public var name: String {
        switch self {
        case .bfloat16: "bf16"
        case .float16: "f16"
        case .float32: "f32"
        }
    }

    public init?(name: String) {
        guard let match = DataType.allCases.first(where: { $0.name == name.lowercased() }) else { return nil }
        self = match
    }
}
