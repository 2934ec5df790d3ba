// SPDX-License-Identifier: Apache-2.0

public import DCPCore

/// Every element type that a safetensors file may declare. Three of them can be used in steps.
public enum SafetensorsDataType: String, CaseIterable, Sendable {
    case bool = "BOOL"
    case float4 = "F4"
    case float6E2M3 = "F6_E2M3"
    case float6E3M2 = "F6_E3M2"
    case uint8 = "U8"
    case int8 = "I8"
    case float8E5M2 = "F8_E5M2"
    case float8E4M3 = "F8_E4M3"
    case float8E8M0 = "F8_E8M0"
    case float8E4M3FNUZ = "F8_E4M3FNUZ"
    case float8E5M2FNUZ = "F8_E5M2FNUZ"
    case int16 = "I16"
    case uint16 = "U16"
    case float16 = "F16"
    case bfloat16 = "BF16"
    case int32 = "I32"
    case uint32 = "U32"
    case float32 = "F32"
    case complex64 = "C64"
    case float64 = "F64"
    case int64 = "I64"
    case uint64 = "U64"

    /// Bits of one element; below 8 for the packed types.
    public var bitCount: Int {
        switch self {
        case .float4: 4
        case .float6E2M3, .float6E3M2: 6
        case .bool, .uint8, .int8, .float8E5M2, .float8E4M3, .float8E8M0, .float8E4M3FNUZ, .float8E5M2FNUZ: 8
        case .int16, .uint16, .float16, .bfloat16: 16
        case .int32, .uint32, .float32: 32
        case .complex64, .float64, .int64, .uint64: 64
        }
    }

    public init(_ dataType: DataType) {
        switch dataType {
        case .bfloat16: self = .bfloat16
        case .float16: self = .float16
        case .float32: self = .float32
        }
    }

    /// The type in steps; nil for types that attention does not support.
    public var rowDataType: DataType? {
        switch self {
        case .bfloat16: .bfloat16
        case .float16: .float16
        case .float32: .float32
        default: nil
        }
    }

    /// Bytes of a tensor of this shape; nil when the product overflows or ends inside a byte.
    package func byteCount(ofShape shape: [Int]) -> Int? {
        // A zero anywhere makes the tensor empty, whatever the other dimensions multiply to.
        if shape.contains(0) { return 0 }
        var bits = bitCount
        for dimension in shape {
            let (product, overflow) = bits.multipliedReportingOverflow(by: dimension)
            guard dimension > 0, !overflow else { return nil }
            bits = product
        }
        return bits % 8 == 0 ? bits / 8 : nil
    }
}
