// SPDX-License-Identifier: Apache-2.0

import CAttentionKernels
import DCPCore
import DCPTestKit
import Glibc
import Testing

/// Memory that begins where a readable page begins, or ends where one ends; the pages beside it cannot be touched.
private final class GuardedMemory {
    let base: UnsafeMutableRawPointer
    let byteCount: Int
    private let map: UnsafeMutableRawPointer
    private let mapByteCount: Int

    init(byteCount: Int, atEnd: Bool) throws {
        let page = Int(sysconf(Int32(_SC_PAGESIZE)))
        let inside = max((byteCount + page - 1) / page, 1) * page
        mapByteCount = inside + 2 * page
        map = try #require(mmap(nil, mapByteCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))
        try #require(map != MAP_FAILED)
        base = map + page + (atEnd ? inside - byteCount : 0)
        self.byteCount = byteCount
        try #require(mprotect(map, page, PROT_NONE) == 0)
        try #require(mprotect(map + page + inside, page, PROT_NONE) == 0)
    }

    var bytes: UnsafeMutableRawBufferPointer { UnsafeMutableRawBufferPointer(start: base, count: byteCount) }

    deinit { munmap(map, mapByteCount) }
}

/// One write: its shape and where its tokens come from and go to.
private struct PanelWrite: CustomStringConvertible {
    var rowType: DataType
    var format: CacheFormat
    var heads: Int
    var dims: (Int, Int)
    var blockTokens: Int
    var rowTokens: Int
    var source: [UInt32]
    var first: Int
    var streams: Bool

    var shape: dcp_panel_shape {
        dcp_panel_shape(
            format: Int32(format.rawValue), kv_heads: Int32(heads), key_dim: Int32(dims.0),
            value_dim: Int32(dims.1), block_tokens: Int32(blockTokens))
    }
    var payloadByteCount: Int { heads * (dims.0 + dims.1) * blockTokens * format.elementByteCount }
    func rowsByteCount(_ dim: Int) -> Int { heads * rowTokens * dim * rowType.byteCount }

    var description: String {
        "\(rowType.name) to \(format.name), dims \(dims), block \(blockTokens), tokens \(first)..<"
            + "\(first + source.count)\(streams ? ", streaming" : "")"
    }

    func run(
        _ table: UnsafePointer<dcp_kernel_table>, keys: UnsafeRawPointer, values: UnsafeRawPointer,
        payload: UnsafeMutableRawPointer
    ) -> Int32 {
        var shape = shape
        return dcp_panel_write(
            table, &shape, Int32(rowType.rawValue), keys, values, Int64(rowTokens), source, Int64(source.count),
            payload, Int64(first), streams ? 1 : 0)
    }

    /// The bytes of a payload that belong to the written tokens.
    var ownBytes: [Bool] {
        var own = [Bool](repeating: false, count: payloadByteCount)
        let size = format.elementByteCount
        for head in 0..<heads {
            let keys = head * (dims.0 + dims.1) * blockTokens
            let values = keys + dims.0 * blockTokens
            for token in first..<first + source.count {
                for d in 0..<dims.0 {
                    let index = PanelPlaces.key(token: token, dim: d, blockTokens: blockTokens, format)
                    for byte in 0..<size { own[(keys + index) * size + byte] = true }
                }
                for d in 0..<dims.1 {
                    let index = PanelPlaces.value(
                        token: token, dim: d, valueDim: dims.1, tokens: blockTokens, format)
                    for byte in 0..<size { own[(values + index) * size + byte] = true }
                }
            }
        }
        return own
    }
}

@Suite("panel writers of all instruction sets")
struct PanelWriterTests {
    private static var tables: [UnsafePointer<dcp_kernel_table>] {
        (0..<dcp_kernels_count()).compactMap { dcp_kernels($0) }
    }

    static let dims = [
        (2, 2), (8, 10), (14, 16), (16, 8), (18, 34), (64, 64), (80, 72), (96, 98), (128, 128), (256, 254), (576, 512),
        (64, 0), (576, 0),
    ]

    /// Patterns that conversions have to treat with care, of a row type: ties and their neighbours, denormals, the
    /// largest and what lies above them, and, when asked for, infinities and NaN of both kinds.
    private func specials(_ type: DataType, finite: Bool) -> [UInt32] {
        let (float, half): ([UInt32], [UInt32])
        float = [
            0, 0x8000_0000, 1, 0x007f_ffff, 0x0080_0000, 0x0000_8000, 0x0001_8000, 0x0001_7fff, 0x3f80_8000,
            0x3f81_8000, 0x3f80_8001, 0x3f80_7fff, 0x3f80_1000, 0x3f80_3000, 0x3f80_0fff, 0x3880_0000, 0x387f_ffff,
            0x3300_0000, 0x3300_0001, 0x3380_0000, 0x33c0_0000, 0xb3c0_0000, 0x477f_efff,
        ]
        let floatBeyond: [UInt32] = [
            0x477f_f000, 0x477f_e000, 0x7f7f_ffff, 0x7f7f_8000, 0xff7f_7fff, 0x7f80_0000, 0xff80_0000, 0x7f80_0001,
            0x7fc0_0000, 0xffff_ffff, 0x7fbf_ffff, 0x7f80_2000,
        ]
        half = type == .float16 ? [0, 0x8000, 1, 0x3ff, 0x400, 0x7bff, 0xfbff] : [0, 0x8000, 1, 0x7f, 0x80, 0x3f80]
        let halfBeyond: [UInt32] =
            type == .float16
            ? [0x7c00, 0xfc00, 0x7c01, 0x7e00, 0xffff] : [0x7f7f, 0xff7f, 0x7f80, 0xff80, 0x7f81, 0x7fc0, 0xffff]
        return type == .float32 ? float + (finite ? [] : floatBeyond) : half + (finite ? [] : halfBeyond)
    }

    private func fill(
        _ memory: UnsafeMutableRawBufferPointer, _ type: DataType, finite: Bool, _ generator: inout SeededGenerator
    ) {
        let specials = specials(type, finite: finite)
        for start in stride(from: 0, to: memory.count, by: type.byteCount) {
            let random = generator.next()
            // Magnitudes around 1, of either sign: all that a model computes.
            var bits: UInt32 =
                switch type {
                case .float32: UInt32(truncatingIfNeeded: random) & 0x80ff_ffff | 0x3e00_0000
                case .bfloat16: UInt32(truncatingIfNeeded: random) & 0x80ff | 0x3e00
                case .float16: UInt32(truncatingIfNeeded: random) & 0x8fff | 0x3000
                }
            if random >> 40 % 8 == 0 { bits = specials[Int(random >> 44) % specials.count] }
            for byte in 0..<type.byteCount { memory[start + byte] = UInt8(truncatingIfNeeded: bits >> (8 * byte)) }
        }
    }

    @Test(
        "each writes the scalar twin's bits, its own tokens' bytes only, and stays inside its memory",
        arguments: DataType.allCases, CacheFormat.ofRows)
    func twins(rowType: DataType, format: CacheFormat) throws {
        let seed = SeededGenerator.seed
        var generator = SeededGenerator.ofRun(salt: UInt64(40 + 3 * rowType.rawValue + format.rawValue))
        for (number, dims) in Self.dims.enumerated() {
            for blockTokens in [16, 48, 64] {
                // A whole block, parts that begin or end inside a line or a pair, and single tokens.
                let ranges = [
                    0..<blockTokens, 0..<1, 1..<2, 1..<blockTokens, 0..<blockTokens - 1, 5..<12, 3..<blockTokens - 5,
                    blockTokens - 1..<blockTokens, 7..<7,
                ]
                for range in ranges {
                    let stride = Int(generator.next() % 3) + 1
                    let atEnd = generator.next() % 2 == 0
                    let write = PanelWrite(
                        rowType: rowType, format: format, heads: 1 + number % 3, dims: dims,
                        blockTokens: blockTokens, rowTokens: blockTokens * stride,
                        source: range.map { UInt32($0 * stride + Int(generator.next() % UInt64(stride))) },
                        first: range.lowerBound, streams: generator.next() % 2 == 0)
                    try check(
                        write, atEnd: atEnd, finite: generator.next() % 3 > 0, "\(write), seed \(seed)", &generator)
                }
            }
        }
    }

    private func check(
        _ write: PanelWrite, atEnd: Bool, finite: Bool, _ what: String, _ generator: inout SeededGenerator
    ) throws {
        // Rows begin or end at a page that cannot be read; from a page's end they are unaligned, as frames leave them.
        let keys = try GuardedMemory(byteCount: write.rowsByteCount(write.dims.0), atEnd: atEnd)
        let values = try GuardedMemory(byteCount: write.rowsByteCount(write.dims.1), atEnd: !atEnd)
        fill(keys.bytes, write.rowType, finite: finite, &generator)
        fill(values.bytes, write.rowType, finite: finite, &generator)
        let before = (0..<write.payloadByteCount).map { _ in UInt8(truncatingIfNeeded: generator.next()) }
        var twin: [UInt8] = []
        var twinResult: Int32 = 0
        let own = write.ownBytes
        for table in Self.tables {
            let payload = try GuardedMemory(byteCount: write.payloadByteCount, atEnd: atEnd)
            payload.bytes.copyBytes(from: before)
            let result = write.run(table, keys: keys.base, values: values.base, payload: payload.base)
            let after = [UInt8](payload.bytes)
            let isUntouched = own.indices.allSatisfy { own[$0] || after[$0] == before[$0] }
            #expect(isUntouched, "\(what), \(String(cString: table.pointee.name))")
            if twin.isEmpty {
                (twin, twinResult) = (after, result)
            } else {
                #expect(after == twin, "\(what), \(String(cString: table.pointee.name))")
                #expect(result == twinResult, "\(what), \(String(cString: table.pointee.name))")
            }
        }
        if finite { #expect(twinResult == 0, "\(what)") }
    }

    @Test("each number stands where the layout says", arguments: CacheFormat.ofRows)
    func places(format: CacheFormat) {
        for (number, dims) in Self.dims.enumerated() {
            let blockTokens = 16 << (number % 3)
            let write = PanelWrite(
                rowType: format.rowType, format: format, heads: 2, dims: dims, blockTokens: blockTokens,
                rowTokens: blockTokens, source: (0..<UInt32(blockTokens)).map { $0 }, first: 0, streams: false)
            // Neighbours differ in their upper halves, whatever their type.
            func bits(_ index: Int) -> UInt32 { UInt32(0x3c00 + index % 509) << (format == .float32 ? 16 : 0) }
            func rows(_ dim: Int, from start: Int) -> [UInt8] {
                (0..<2 * blockTokens * dim).flatMap { index in
                    (0..<format.elementByteCount).map { UInt8(truncatingIfNeeded: bits(start + index) >> (8 * $0)) }
                }
            }
            let keys = rows(dims.0, from: 0), values = rows(dims.1, from: 7)
            var payload = [UInt8](repeating: 0, count: write.payloadByteCount)
            for table in Self.tables {
                #expect(write.run(table, keys: keys, values: values, payload: &payload) == 0)
                func element(_ index: Int) -> UInt32 {
                    let start = index * format.elementByteCount
                    return (0..<format.elementByteCount).reduce(0) { $0 | UInt32(payload[start + $1]) << (8 * $1) }
                }
                var areThere = true
                for head in 0..<2 {
                    let start = head * (dims.0 + dims.1) * blockTokens
                    for token in 0..<blockTokens {
                        let row = head * blockTokens + token
                        for d in 0..<dims.0 {
                            let place = PanelPlaces.key(token: token, dim: d, blockTokens: blockTokens, format)
                            areThere = areThere && element(start + place) == bits(row * dims.0 + d)
                        }
                        for d in 0..<dims.1 {
                            let place = PanelPlaces.value(
                                token: token, dim: d, valueDim: dims.1, tokens: blockTokens, format)
                            areThere =
                                areThere
                                && element(start + dims.0 * blockTokens + place) == bits(7 + row * dims.1 + d)
                        }
                    }
                }
                #expect(areThere, "\(String(cString: table.pointee.name)), \(write)")
            }
        }
    }

    @Test("a single number that is not finite is found wherever it is", arguments: CacheFormat.ofRows)
    func oneBadNumber(format: CacheFormat) throws {
        var generator = SeededGenerator.ofRun(salt: 60)
        let write = PanelWrite(
            rowType: .float32, format: format, heads: 2, dims: (34, 38), blockTokens: 32, rowTokens: 23,
            source: Array(0..<23), first: 5, streams: false)
        let payload = try GuardedMemory(byteCount: write.payloadByteCount, atEnd: false)
        for table in Self.tables {
            for _ in 0..<400 {
                var keys = [Float](repeating: 1, count: write.rowsByteCount(write.dims.0) / 4)
                var values = [Float](repeating: -1, count: write.rowsByteCount(write.dims.1) / 4)
                let bad: Float = [.nan, .infinity, -.infinity][Int(generator.next() % 3)]
                let place = Int(generator.next() % UInt64(keys.count + values.count))
                if place < keys.count { keys[place] = bad } else { values[place - keys.count] = bad }
                let result = write.run(table, keys: keys, values: values, payload: payload.base)
                #expect(result == -1, "\(String(cString: table.pointee.name)), place \(place)")
            }
        }
    }

    @Test("rows as Float32: the scalar twin's bits and verdict at any length", arguments: DataType.allCases)
    func toFloat(rowType: DataType) throws {
        var generator = SeededGenerator.ofRun(salt: 61)
        for count in Array(1..<40) + [64, 127, 1000] {
            for finite in [true, false] {
                let rows = try GuardedMemory(byteCount: count * rowType.byteCount, atEnd: count % 2 == 0)
                fill(rows.bytes, rowType, finite: finite, &generator)
                var twin: ([UInt8], Int32)?
                for table in Self.tables {
                    let out = try GuardedMemory(byteCount: count * 4, atEnd: count % 3 > 0)
                    let result = dcp_rows_to_f32(
                        table, Int32(rowType.rawValue), rows.base, Int64(count),
                        out.base.assumingMemoryBound(to: Float.self))
                    let bytes = [UInt8](out.bytes)
                    if let twin { #expect(bytes == twin.0 && result == twin.1, "\(count) of \(rowType.name)") }
                    twin = twin ?? (bytes, result)
                }
                if finite { #expect(twin?.1 == 0) }
            }
        }
    }
}
