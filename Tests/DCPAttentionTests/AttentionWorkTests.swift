// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCore
import DCPTestKit
import Testing

@Suite("attention work")
struct AttentionWorkTests {
    @Test(
        "a result has the same bits whatever the order and the threads of its pieces", arguments: [1, 40],
        AttentionKernels.available)
    func order(count: Int, kernels: AttentionKernels) async throws {
        let problem = AttentionCase(
            format: .bfloat16, keyDim: 128, valueDim: 96, count: count, length: 24_000, kernels: kernels)
        let inputs = problem.inputs()
        let expected = try problem.states(inputs)
        let panels = TestPanels(layout: problem.layout, keys: inputs.keys, values: inputs.values, tokens: 24_000)

        let reversed = try problem.work(inputs, panels: panels)
        #expect(reversed.pieceCount >= 10)
        for piece in (0..<reversed.pieceCount).reversed() { reversed.run(piece: piece) }
        var states = AttentionStates.empty(rows: expected.rows, valueDim: expected.valueDim)
        reversed.finish(into: &states)
        #expect(states == expected)

        let parallel = try problem.work(inputs, panels: panels)
        await withTaskGroup { group in
            for piece in 0..<parallel.pieceCount { group.addTask { parallel.run(piece: piece) } }
        }
        var again = AttentionStates.empty(rows: expected.rows, valueDim: expected.valueDim)
        withExtendedLifetime(panels) { parallel.finish(into: &again) }
        #expect(again == expected)
    }

    @Test("TRAPS 38: what unused tokens of the last block hold changes no bit", arguments: Variant.all)
    func poisonedTail(variant: Variant) throws {
        for (count, length) in [(1, 1), (1, 65), (7, 79), (15, 17), (20, 1), (96, 97)] {
            let problem = AttentionCase(
                format: variant.format, count: count, length: length, kernels: variant.kernels)
            let inputs = problem.inputs()
            let states = try [UInt8(0xFF), 0, 0x7F].map { poison in
                let panels = TestPanels(
                    layout: problem.layout, keys: inputs.keys, values: inputs.values, tokens: length, poison: poison)
                let work = try problem.work(inputs, panels: panels)
                for piece in 0..<work.pieceCount { work.run(piece: piece) }
                var states = AttentionStates.empty(rows: 4 * count, valueDim: 64)
                withExtendedLifetime(panels) { work.finish(into: &states) }
                return states
            }
            #expect(states[0] == states[1] && states[0] == states[2])
            #expect(states[0].outputs.allSatisfy { $0.isFinite })
        }
    }

    @Test(
        "TRAPS 28: a slice of heads gives the bits of the same heads among all", arguments: [1, 2, 4, 8, 16],
        AttentionKernels.available)
    func slices(ranks: Int, kernels: AttentionKernels) throws {
        for (count, length, causal) in [(1, 70, false), (3, 3, true), (40, 70, false)] {
            let problem = AttentionCase(
                format: .bfloat16, kvHeads: 3, group: 3, keyDim: 64, valueDim: 64, count: count, length: length,
                causal: causal, contextRanks: ranks, kernels: kernels)
            let inputs = problem.inputs()
            let reference = try problem.reference(inputs)
            let slices = try (0..<ranks).map { rank in
                try problem.states(inputs, heads: problem.partition.ownHeads(ofRank: rank))
            }
            let difference = Difference(AttentionStates(joining: slices), reference, tokens: count)
            #expect(difference.output < 1e-5 && difference.lse < 1e-5, "\(ranks) ranks, \(count) tokens")
        }
    }

    @Test("several entries of a step: each writes its own tokens' rows, empty ones by their length")
    func entries() throws {
        var problem = AttentionCase(format: .float16, kvHeads: 2, group: 2, count: 6)
        problem.length = 0
        let queries = problem.inputs()
        var states = AttentionStates(
            valueDim: 64, outputs: [Float](repeating: .nan, count: 4 * 6 * 64),
            lse: [Double](repeating: .nan, count: 4 * 6))
        var expected = ReferenceAttention.Result(outputs: [], lse: [])
        for (tokens, length) in [(0..<1, 33), (1..<3, 0), (3..<6, 100)] {
            var entry = problem
            entry.length = length
            var inputs = entry.inputs(salt: UInt64(length))
            let panels = TestPanels(layout: entry.layout, keys: inputs.keys, values: inputs.values, tokens: length)
            let work = AttentionWork(
                attention: try entry.attention(), partition: entry.partition, heads: 0..<4,
                queries: problem.queryRows(queries), tokens: tokens, visible: .all(count: tokens.count, of: length),
                over: panels.blocks)
            #expect((work.pieceCount == 0) == (length == 0))
            for piece in 0..<work.pieceCount { work.run(piece: piece) }
            withExtendedLifetime(panels) { work.finish(into: &states) }
            inputs.queries = Array(queries.queries[tokens.lowerBound * 4 * 64..<tokens.upperBound * 4 * 64])
            let result = try entry.reference(inputs)
            expected.outputs += result.outputs
            expected.lse += result.lse
        }
        let difference = Difference(states, expected, tokens: 6)
        #expect(difference.output < 1e-5 && difference.lse < 1e-5)
        for head in 0..<4 {
            #expect(states.lse[head * 6 + 1] == -.infinity && states.lse[head * 6 + 2] == -.infinity)
            #expect(states.slice(rows: head * 6 + 1..<head * 6 + 3).outputs.allSatisfy { $0 == 0 })
        }
    }

    @Test("TRAPS 6: scores that overflow give a NaN log-sum-exp, which the merge refuses", arguments: [1, 40])
    func overflow(count: Int) throws {
        for sign in [Float(1), -1] {
            let problem = AttentionCase(count: count, length: 20)
            var inputs = problem.inputs()
            for index in inputs.queries.indices { inputs.queries[index] = 1e30 }
            for index in inputs.keys.indices { inputs.keys[index] = sign * 1e30 }
            let states = try problem.states(inputs)
            #expect(states.lse.allSatisfy { $0.isNaN })
            #expect(throws: ServiceError.self) { try AttentionStates.merge([states]) }
        }
    }

    @Test("split: pieces cover every row and key once, begin at blocks, and stay few")
    func split() {
        for (heads, kvHeads, tokens, keys, causal) in [
            (32, 8, 1, 131_072, false), (32, 8, 512, 32_768, false), (9, 3, 700, 700, true), (128, 1, 7, 5000, false),
            (32, 8, 4096, 4096, true), (8, 8, 1, 1, false),
        ] {
            for (blockTokens, rowsMax) in [(16, 64), (48, 64), (64, 256), (4096, 64), (64, 64)] {
                let partition = HeadPartition(queryHeads: heads, kvHeads: kvHeads, contextRanks: 1)
                let layout = PanelLayout(
                    format: .bfloat16, kvHeads: kvHeads, keyDim: 128, valueDim: 128, blockTokens: blockTokens)
                let split = WorkSplit(
                    partition: partition, heads: 0..<heads,
                    visible: causal ? .new(.all, at: 0..<tokens) : .all(count: tokens, of: keys), layout: layout,
                    rowsMax: rowsMax)
                #expect(split.tiles.reduce(0) { $0 + $1.rows } == heads * tokens)
                #expect(split.pieces.count <= max(WorkSplit.piecesMax, split.tiles.count))
                for (index, tile) in split.tiles.enumerated() {
                    #expect(tile.rows <= rowsMax)
                    #expect(tile.heads.allSatisfy { partition.kvHead(ofQueryHead: $0) == tile.kvHead })
                    #expect(tile.seen == 0..<(causal ? tile.tokens.upperBound : keys))
                    #expect(tile.shared == 0..<(causal ? tile.tokens.lowerBound + 1 : keys))
                    var next = 0
                    for piece in split.pieces[tile.pieces] {
                        #expect(piece.tiles.contains(index))
                        #expect(piece.keys.lowerBound == next && next % blockTokens == 0)
                        next = piece.keys.upperBound
                    }
                    #expect(next >= tile.seen.upperBound)
                }
                // The tiles of a piece are neighbours, each has the pieces that name it, and a block's bytes are read by
                // one of them, or by a few that share its KV heads.
                for (index, piece) in split.pieces.enumerated() {
                    #expect(piece.tiles.allSatisfy { split.tiles[$0].pieces.contains(index) })
                    let perHead = Dictionary(grouping: piece.tiles) { split.tiles[$0].kvHead }
                    for tiles in perHead.values {
                        #expect(tiles.reduce(0) { $0 + split.tiles[$1].rows } <= WorkSplit.rowsMax)
                    }
                }
            }
        }
    }

    @Test(
        "a decode step's pieces hold all KV heads, a single KV head's pieces share its tokens out", arguments: [8, 1])
    func decodeSplit(kvHeads: Int) {
        let split = Self.decodeSplit(kvHeads: kvHeads, tokens: 65_536)
        #expect(split.tiles.count == kvHeads && split.pieces.count >= 30)
        #expect(split.pieces.allSatisfy { $0.tiles == 0..<kvHeads })
    }

    @Test(
        "1 to 32 threads that take piece after piece of a decode step are busy for 85 % of its time",
        arguments: [8, 4, 2])
    func balance(kvHeads: Int) {
        for mebibytes in [128, 200, 333, 512, 1000, 4096] {
            let split = Self.decodeSplit(kvHeads: kvHeads, tokens: (mebibytes << 20) / (kvHeads * 512))
            let lengths = split.pieces.map(\.keys.count)
            for threads in 1...32 {
                var ends = [Int](repeating: 0, count: threads)
                for length in lengths { ends[ends.indices.min { ends[$0] < ends[$1] }!] += length }
                let busy = Double(lengths.reduce(0, +)) / Double(threads * ends.max()!)
                #expect(busy >= 0.85, "\(threads) threads, \(mebibytes) MiB in \(lengths.count) pieces")
            }
        }
    }

    @Test("many rows keep few states: their pieces are fewer, and of one length")
    func largeStates() {
        let layout = PanelLayout(
            format: .bfloat16, kvHeads: 1, keyDim: 576, values: .leading(512), blockTokens: 64)
        let split = WorkSplit(
            partition: HeadPartition(queryHeads: 128, kvHeads: 1, contextRanks: 1), heads: 0..<128,
            visible: .all(count: 1, of: 131_072), layout: layout, rowsMax: 64)
        #expect(Set(split.pieces.dropLast().map(\.keys.count)).count == 1)
        #expect((28...32).contains(split.pieces.count))
    }

    /// Of queries in groups of four, over bf16 heads of 128.
    private static func decodeSplit(kvHeads: Int, tokens: Int) -> WorkSplit {
        WorkSplit(
            partition: HeadPartition(queryHeads: kvHeads * 4, kvHeads: kvHeads, contextRanks: 1),
            heads: 0..<kvHeads * 4, visible: .all(count: 1, of: tokens),
            layout: PanelLayout(format: .bfloat16, kvHeads: kvHeads, keyDim: 128, valueDim: 128, blockTokens: 64),
            rowsMax: 64)
    }

    @Test("new-token panels: any tokens of the step, rounded as the cache rounds; NaN and too large are refused")
    func newTokens() throws {
        let problem = AttentionCase(format: .bfloat16, count: 20, length: 20, causal: true)
        let inputs = problem.inputs()
        let keys = RowOrder.headMajor(inputs.keys, tokens: 20, heads: 2, dim: 64)
        let values = RowOrder.headMajor(inputs.values, tokens: 20, heads: 2, dim: 64)
        let panels = try keys.withUnsafeBytes { keys in
            try values.withUnsafeBytes { values in
                let rows = KeyValueRows(
                    dataType: .float32, keys: try #require(keys.baseAddress),
                    values: try #require(values.baseAddress), tokens: 20)
                return try NewTokenPanels(layout: problem.layout, rows: rows, tokens: 3..<20)
            }
        }
        #expect(panels.blocks.tokens == 17 && panels.blocks.layout.blockTokens == 32)
        let work = AttentionWork(
            attention: try problem.attention(), partition: problem.partition, heads: 0..<4,
            queries: problem.queryRows(inputs), tokens: 3..<20, visible: .new(.all, at: 0..<17), over: panels.blocks)
        for piece in 0..<work.pieceCount { work.run(piece: piece) }
        var states = AttentionStates.empty(rows: 4 * 20, valueDim: 64)
        withExtendedLifetime(panels) { work.finish(into: &states) }
        var part = problem
        part.count = 17
        part.length = 17
        let expected = try part.reference(
            .init(
                queries: Array(inputs.queries[(3 * 4 * 64)...]), keys: Array(inputs.keys[(3 * 2 * 64)...]),
                values: Array(inputs.values[(3 * 2 * 64)...])))
        let rows = AttentionStates(joining: (0..<4).map { states.slice(rows: $0 * 20 + 3..<$0 * 20 + 20) })
        let difference = Difference(rows, expected, tokens: 17)
        #expect(difference.output < 1e-5 && difference.lse < 1e-5)

        for bad in [Float.nan, .infinity, .greatestFiniteMagnitude] {
            var keys = keys
            keys[70] = bad
            #expect(throws: ServiceError.self) {
                try keys.withUnsafeBytes { keys in
                    let rows = KeyValueRows(
                        dataType: .float32, keys: try #require(keys.baseAddress),
                        values: try #require(keys.baseAddress), tokens: 20)
                    _ = try NewTokenPanels(layout: problem.layout, rows: rows, tokens: 0..<20)
                }
            }
        }
    }
}
