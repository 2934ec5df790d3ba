// SPDX-License-Identifier: Apache-2.0

import CAttentionKernels
import DCPAttention
import DCPCore
import DCPTestKit
import Glibc
import Testing

/// One block of one KV head whose last byte is the last of a page; the page behind it cannot be read.
private final class GuardedBlock {
    let keys: UnsafeRawPointer
    let values: UnsafeRawPointer
    private let map: UnsafeMutableRawPointer
    private let mapByteCount: Int

    /// - Parameters:
    ///   - first: the first token that is written.
    ///   - tokens: how many are written; the others are NaN.
    init(layout: PanelLayout, first: Int = 0, tokens: Int, generator: inout SeededGenerator) throws {
        let page = Int(sysconf(Int32(_SC_PAGESIZE)))
        let byteCount = (layout.payloadByteCount + page - 1) / page * page
        mapByteCount = byteCount + page
        map = try #require(mmap(nil, mapByteCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))
        try #require(map != MAP_FAILED)
        let payload = map + byteCount - layout.payloadByteCount
        keys = UnsafeRawPointer(payload + layout.keyPanelOffset(ofHead: 0))
        values = UnsafeRawPointer(payload + layout.valuePanelOffset(ofHead: 0))
        map.initializeMemory(as: UInt8.self, repeating: 0xFF, count: byteCount)
        var rows = (generator.floats(tokens * layout.keyDim), generator.floats(tokens * layout.valueDim))
        // Numbers that int8 keeps apart, of some tokens and of different dimensions.
        for token in stride(from: 0, to: layout.format.hasWords ? tokens : 0, by: 3) {
            rows.0[token * layout.keyDim + Int.random(in: 0..<layout.keyDim, using: &generator)] = 40
        }
        let isFinite = rows.0.withUnsafeBytes { keys in
            rows.1.withUnsafeBytes { values in
                guard let keys = keys.baseAddress, let values = values.baseAddress else { return true }
                return layout.write(
                    KeyValueRows(dataType: .float32, keys: keys, values: values, tokens: tokens),
                    rowTokens: (0..<UInt32(tokens)).map { $0 }, into: payload, at: first)
            }
        }
        try #require(isFinite)
        try #require(mprotect(map + byteCount, page, PROT_NONE) == 0)
    }

    deinit { munmap(map, mapByteCount) }

    /// The block is its own next, with the page behind it: prefetches run over its end, which is no read.
    var ahead: dcp_ahead {
        let start = map.assumingMemoryBound(to: CChar.self)
        return dcp_ahead(
            at: keys.assumingMemoryBound(to: CChar.self), end: start + mapByteCount, then: start, then_end: start + 640,
            level: 2)
    }
}

/// A state and what a kernel makes of it.
private struct Rows {
    var count: Int
    var keyDim: Int
    var valueDim: Int
    var softCap: Float
    var lightShare: Float = 0
    var queries: [Float]
    var maximum: [Float]
    var sum: [Float]
    /// `[count][valueDim]`, and 16 numbers beyond it that must not be written.
    var output: [Float]

    static let beyond: Float = -77

    init(count: Int, keyDim: Int, valueDim: Int, softCap: Float, generator: inout SeededGenerator) {
        self.count = count
        self.keyDim = keyDim
        self.valueDim = valueDim
        self.softCap = softCap
        // Halved by the scale: the twins' scores are those of elements below 1.
        queries = generator.floats(count * keyDim, limit: 2)
        maximum = [Float](repeating: -.infinity, count: count)
        sum = [Float](repeating: 0, count: count)
        output =
            [Float](repeating: 0, count: count * valueDim) + [Float](repeating: Self.beyond, count: 16)
    }

    /// The rows of some indices, alone.
    func only(_ rows: Range<Int>) -> Rows {
        var some = self
        some.count = rows.count
        some.queries = Array(queries[rows.lowerBound * keyDim..<rows.upperBound * keyDim])
        some.maximum = Array(maximum[rows])
        some.sum = Array(sum[rows])
        some.output =
            Array(output[rows.lowerBound * valueDim..<rows.upperBound * valueDim])
            + [Float](repeating: Self.beyond, count: 16)
        return some
    }

    mutating func take(
        _ block: GuardedBlock, layout: PanelLayout, visible: SeenTokens, asAll: Bool = false,
        table: UnsafePointer<dcp_kernel_table>
    ) {
        var terms = [UInt16](repeating: 0, count: 3 * queries.count)
        var termCount: Int32 = 1
        if layout.format == .int8 {
            dcp_byte_queries(queries, Int64(count), Int64(keyDim), &terms)
        } else {
            termCount = dcp_split_queries(queries, Int64(queries.count), &terms, Int64(queries.count))
        }
        queries.withUnsafeBufferPointer { queries in
            maximum.withUnsafeMutableBufferPointer { maximum in
                sum.withUnsafeMutableBufferPointer { sum in
                    output.withUnsafeMutableBufferPointer { output in
                        terms.withUnsafeBytes { terms in
                            var rows = dcp_attention_rows(
                                rows: Int32(count), key_dim: Int32(keyDim), value_dim: Int32(valueDim),
                                block_tokens: Int32(layout.blockTokens), value_tokens: Int32(layout.blockTokens),
                                terms: termCount, scale: 0.5, soft_cap: softCap, light_share: lightShare,
                                queries: queries.baseAddress, plain_queries: queries.baseAddress,
                                query_terms: terms.assumingMemoryBound(to: UInt32.self).baseAddress,
                                maximum: maximum.baseAddress, sum: sum.baseAddress, output: output.baseAddress)
                            visible.withRanges {
                                dcp_attend_block(
                                    table, Int32(layout.format.rawValue), &rows, block.keys, block.values,
                                    asAll ? visible.all ?? $0 : $0,
                                    block.ahead)
                            }
                        }
                    }
                }
            }
        }
    }
}

private var tables: [UnsafePointer<dcp_kernel_table>] {
    (0..<dcp_kernels_count()).compactMap { dcp_kernels($0) }
}

@Suite("instruction sets")
struct InstructionSetTests {
    @Test(
        "blocks that end where memory ends: nothing beyond is read or written, and all sets agree with scalar",
        arguments: KernelGridTests.dims, CacheFormat.ofRows)
    func guarded(dims: (Int, Int), format: CacheFormat) throws {
        var generator = SeededGenerator.ofRun(salt: UInt64(dims.0 * 1000 + dims.1))
        for (number, blockTokens) in [16, 32, 48, 64, 80, 128, 144].enumerated() {
            let layout = PanelLayout(
                format: format, kvHeads: 1, keyDim: dims.0, valueDim: dims.1, blockTokens: blockTokens)
            for tokens in [blockTokens, blockTokens - 1, blockTokens - 15, 1, 2] {
                let block = try GuardedBlock(layout: layout, tokens: tokens, generator: &generator)
                let count = [1 + (number * 5 + tokens) % 16, 17 + (tokens * 7) % 48][number % 2]
                let start = Rows(
                    count: count, keyDim: dims.0, valueDim: dims.1, softCap: number % 3 == 0 ? 5 : 0,
                    generator: &generator)
                // Rows see all tokens, one, some, or none; from the first on, or, of a third of the rows, from anywhere.
                let visible = SeenTokens(
                    (0..<count).map { row in
                        let end = [tokens, max(tokens - row, 0), row * 7 % (tokens + 1), 0][row % 4]
                        let first = row % 3 == 0 ? row * 11 % (end + 1) : 0
                        return (first, end)
                    })
                var scalar = start
                scalar.take(block, layout: layout, visible: visible, table: tables[0])
                scalar.take(block, layout: layout, visible: visible, table: tables[0])
                for table in tables.dropFirst() {
                    var rows = start
                    rows.take(block, layout: layout, visible: visible, table: table)
                    rows.take(block, layout: layout, visible: visible, table: table)
                    let readsTerms = dcp_reads_terms(table, Int32(format.rawValue)) != 0
                    check(
                        rows, scalar, weightError: readsTerms ? 0x1p-17 : 0,
                        "\(String(cString: table.pointee.name)) \(layout) \(visible)")
                }
            }
        }
    }

    /// Elements of scaled queries and of keys are below 1, evenly spread: the product of two norms is about Dk / 3. Both
    /// twins' scores are off by a few units of 2^-24 of it, in sums of different order; weights and their sums relative to
    /// that. A weight that is a sum of two bf16 is off by another 2^-17.
    private func check(_ rows: Rows, _ twin: Rows, weightError: Float, _ what: String) {
        let relative = 2e-6 + 4e-7 * Float(rows.keyDim) / 3
        for row in 0..<rows.count {
            let sum = twin.sum[row]
            #expect((rows.sum[row] == 0) == (sum == 0), "\(what), row \(row)")
            if sum == 0 {
                #expect(rows.maximum[row] == -.infinity, "\(what), row \(row)")
                continue
            }
            #expect(abs(rows.maximum[row] - twin.maximum[row]) <= relative, "\(what), row \(row)")
            #expect(abs(rows.sum[row] - sum) <= relative * sum, "\(what), row \(row)")
        }
        let worst = zip(rows.output.indices, rows.output).reduce(Float(0)) { worst, item in
            let row = min(item.0 / rows.valueDim, rows.count - 1)
            // Relative to the weights: values are below 1.
            let difference = abs(item.1 - twin.output[item.0]) / max(twin.sum[row], 1)
            return max(worst, difference.isNaN ? .infinity : difference)
        }
        #expect(worst <= relative + weightError, "\(what): output off by \(worst)")
        #expect(rows.output.suffix(16).allSatisfy { $0 == Rows.beyond }, "\(what)")
    }

    @Test(
        "a row's bits do not depend on the rows beside it, nor does a NaN that only those see",
        arguments: CacheFormat.allCases, [Float(0), 1 / 32, 1 / 4, .infinity])
    func alone(format: CacheFormat, lightShare: Float) throws {
        for firstWritten in [0, 2] { try alone(format, lightShare, firstWritten: firstWritten) }
    }

    private func alone(_ format: CacheFormat, _ lightShare: Float, firstWritten: Int) throws {
        var generator = SeededGenerator.ofRun(salt: 21)
        let dim = format.hasScales ? 92 : 90
        let layout = PanelLayout(format: format, kvHeads: 1, keyDim: 72, valueDim: dim, blockTokens: 144)
        // Tokens 70 and beyond are NaN, and those before the first written.
        let block = try GuardedBlock(
            layout: layout, first: firstWritten, tokens: 70 - firstWritten, generator: &generator)
        var start = Rows(count: 16, keyDim: 72, valueDim: dim, softCap: 0, generator: &generator)
        start.lightShare = lightShare
        let ranges = (0..<16).map { row in
            let (first, end) = [
                (0, 70), (0, 69), (0, 144), (0, 33), (0, 0), (0, 71), (0, 3), (1, 70), (65, 70), (63, 66), (40, 40),
                (33, 34),
                (17, 64), (66, 144), (0, 64), (3, 65),
            ][row]
            return (first: min(end, first + (row == 2 ? 0 : firstWritten)), end: end)
        }
        for table in tables {
            var all = start
            all.take(block, layout: layout, visible: SeenTokens(ranges), table: table)
            for row in 0..<16 {
                var alone = start.only(row..<row + 1)
                alone.take(block, layout: layout, visible: SeenTokens([ranges[row]]), table: table)
                if ranges[row].end > 70 {
                    #expect(alone.sum[0].isNaN && all.sum[row].isNaN)
                    continue
                }
                #expect(alone.maximum[0] == all.maximum[row] && alone.sum[0] == all.sum[row])
                #expect(alone.output[..<dim] == all.output[row * dim..<(row + 1) * dim])
                #expect(alone.output[..<dim].allSatisfy { $0.isFinite })
            }
        }
    }

    @Test(
        "rows that all see the same first tokens become the same bits, said once or for each",
        arguments: CacheFormat.ofRows)
    func all(format: CacheFormat) throws {
        var generator = SeededGenerator.ofRun(salt: 23)
        for (keyDim, valueDim) in [(72, 90), (300, 280)] {
            let layout = PanelLayout(
                format: format, kvHeads: 1, keyDim: keyDim, valueDim: valueDim, blockTokens: 144)
            let block = try GuardedBlock(layout: layout, tokens: 144, generator: &generator)
            for (count, end) in [(1, 144), (4, 63), (7, 1), (16, 64), (17, 130), (64, 144), (5, 0)] {
                let start = Rows(count: count, keyDim: keyDim, valueDim: valueDim, softCap: 0, generator: &generator)
                let visible = SeenTokens([(first: Int, end: Int)](repeating: (0, end), count: count))
                for table in tables {
                    var (each, all) = (start, start)
                    each.take(block, layout: layout, visible: visible, table: table)
                    all.take(block, layout: layout, visible: visible, asAll: true, table: table)
                    #expect(each.maximum == all.maximum && each.sum == all.sum && each.output == all.output)
                }
            }
        }
    }

    @Test("a score of +inf or a maximum of -inf stays visible as NaN in every set")
    func infinities() throws {
        let layout = PanelLayout(format: .float32, kvHeads: 1, keyDim: 8, valueDim: 8, blockTokens: 16)
        var generator = SeededGenerator.ofRun(salt: 22)
        let block = try GuardedBlock(layout: layout, tokens: 16, generator: &generator)
        for query in [Float.infinity, -.infinity] {
            var start = Rows(count: 2, keyDim: 8, valueDim: 8, softCap: 0, generator: &generator)
            for d in 0..<8 { start.queries[d] = query }
            for table in tables {
                var rows = start
                rows.take(
                    block, layout: layout,
                    visible: SeenTokens(upTo: 16, 16), table: table)
                #expect(rows.sum[0].isNaN && rows.sum[1].isFinite && rows.output[8..<16].allSatisfy { $0.isFinite })
            }
        }
    }
}

@Suite("the choice of kernels")
struct KernelSelectionTests {
    @Test("names of sets that there are choose them, no name the fastest")
    func named() throws {
        let available = AttentionKernels.available
        #expect(available.first?.name == "scalar")
        #expect(
            Set(available.map(\.name)).isSubset(of: [
                "scalar", "avx2", "avx2vnni", "avx512", "avx512vnni", "avx512bf16", "neon", "neondot",
            ]))
        for kernels in available { #expect(try AttentionKernels.named(kernels.name) == kernels) }
        #expect(try AttentionKernels.named(nil) == available.last)
        #expect(available.contains(AttentionKernels.chosen))
        #expect(KernelSelection.current.instructionSet == AttentionKernels.chosen.name)
        #expect(!KernelSelection.current.openBLASCore.isEmpty)
    }

    @Test("an unknown name is refused with those that are possible", arguments: ["AVX2", "sve", "portable", " "])
    func unknown(name: String) {
        let error = #expect(throws: ServiceError.self) { try AttentionKernels.named(name) }
        #expect(error?.code == .invalidConfiguration)
        let names = AttentionKernels.available.map(\.name).joined(separator: ", ")
        #expect(error?.message.contains("`\(name)` do not exist; set DCP_KERNELS to one of \(names)") == true)
    }

    @Test(
        "OpenBLAS cores that use narrower vectors than the CPU's are reported",
        arguments: [
            ("Haswell", "avx512bf16", true), ("Haswell", "avx512", true), ("Zen", "avx512", true),
            ("Haswell", "avx512vnni", true), ("Nehalem", "avx2vnni", true), ("Cooperlake", "avx512", false),
            ("SkylakeX", "avx512", false), ("Haswell", "avx2", false), ("Nehalem", "avx2", true),
            ("Prescott", "scalar", false),
        ])
    func olderCore(core: String, set: String, older: Bool) {
        #expect(KernelSelection.isOlder(openBLASCore: core, than: set) == older)
    }
}
