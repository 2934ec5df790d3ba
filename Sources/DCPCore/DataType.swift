// SPDX-License-Identifier: Apache-2.0

/// The element type of tensors: of the queries, keys and values of a step, and of keys and values read back from a
/// cache.
///
/// The raw value is its byte on the wire and in the store; it never changes.
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
