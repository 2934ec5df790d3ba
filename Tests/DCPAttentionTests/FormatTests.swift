// SPDX-License-Identifier: Apache-2.0

import CAttentionKernels
import DCPAttention
import DCPCore
import Glibc
import Testing

@Suite("cache formats in Swift and in C")
struct FormatTests {
    @Test("each has one number, name and size")
    func numbers() throws {
        #expect(CacheFormat.allCases.map { Int($0.rawValue) } == Array(Int(dcp_bf16)..<Int(dcp_formats_end)))
        for format in CacheFormat.allCases {
            let found = dcp_format(Int32(format.rawValue))
            #expect(String(cString: found.name) == format.name)
            #expect(Int(found.element_bytes) == format.elementByteCount)
            #expect(
                Int(dcp_panel_bytes(Int32(format.rawValue), 1, 1)) == format.elementByteCount + format.scaleByteCount)
            var shape = dcp_panel_shape(
                format: Int32(format.rawValue), kv_heads: 1, key_dim: 8, value_dim: 12, block_tokens: 16)
            let layout = PanelLayout(format: format, kvHeads: 1, keyDim: 8, valueDim: 12, blockTokens: 16)
            #expect(Int(dcp_key_panel_bytes(&shape)) == layout.keyPanelByteCount)
            #expect(Int(dcp_head_bytes(&shape)) == layout.headByteCount)
            let attention = try LayerAttention(queryHeads: 1, kvHeads: 1, keyDim: 8, values: .own(12), scale: 1)
            #expect(attention.keptByteCount(format) == layout.keptByteCount)
            #expect(dcp_row_type_of(Int32(format.rawValue)) == Int32(format.rowType.rawValue))
            #expect(CacheFormat(name: format.name) == format && CacheFormat(name: format.name.uppercased()) == format)
            #expect(CacheFormat.names.contains(format.name))
        }
        #expect(CacheFormat(name: "int4") == nil)
    }

    @Test("dtypes of rows have the numbers of the formats that keep them")
    func rowTypes() {
        #expect(DataType.allCases.map { Int($0.rawValue) } == Array(Int(dcp_bf16)..<Int(dcp_row_types_end)))
        for type in DataType.allCases {
            let format = CacheFormat(type)
            #expect(format.rawValue == type.rawValue && format.rowType == type && format.name == type.name)
            #expect(format.elementByteCount == type.byteCount)
        }
    }

    @Test("a number that is not a format stops the process, with any kernels")
    func unknown() async {
        await #expect(processExitsWith: .signal(SIGILL)) {
            let shape = dcp_panel_shape(format: 6, kv_heads: 1, key_dim: 8, value_dim: 8, block_tokens: 16)
            withUnsafePointer(to: shape) { shape in
                let payload = [UInt8](repeating: 0, count: 1024)
                var (keys, values) = ([UInt8](repeating: 0, count: 64), [UInt8](repeating: 0, count: 64))
                dcp_panel_read(dcp_kernels(dcp_kernels_count() - 1), shape, payload, 0, 1, &keys, &values)
            }
        }
        await #expect(processExitsWith: .signal(SIGILL)) {
            var out = [Float](repeating: 0, count: 4)
            _ = dcp_rows_to_f32(dcp_kernels(0), 0, [0, 0, 0, 0] as [Float], 4, &out)
        }
    }
}
