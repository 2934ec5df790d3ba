// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCore
import DCPTestKit
import Testing

@Suite("PieceRun: pieces in portions")
struct PieceRunTests {
    /// Long enough for several portions of each piece, and for sums of two levels.
    private static func problem(_ format: CacheFormat, _ kernels: AttentionKernels) -> AttentionCase {
        AttentionCase(
            format: format, kvHeads: 2, group: 4, keyDim: 128, valueDim: 96, count: 64, length: 20_000,
            kernels: kernels)
    }

    @Test(
        "a result has the bits of whole pieces however portions of them follow each other",
        arguments: CacheFormat.allCases,
        AttentionKernels.available)
    func interleaved(format: CacheFormat, kernels: AttentionKernels) throws {
        let problem = Self.problem(format, kernels)
        let inputs = problem.inputs()
        let panels = TestPanels(
            layout: problem.layout, keys: inputs.keys, values: inputs.values, tokens: problem.length)
        let whole = try problem.work(inputs, panels: panels)
        for piece in 0..<whole.pieceCount {
            #expect(!PieceRun(whole, piece: piece, portionTokens: problem.length).advance())
        }
        var expected = AttentionStates.empty(rows: problem.queryHeads * problem.count, valueDim: problem.valueDim)
        whole.finish(into: &expected)
        let seed = SeededGenerator.seed
        var random = SeededGenerator(seed: seed)
        let work = try problem.work(inputs, panels: panels)
        var runs = (0..<work.pieceCount).map { PieceRun(work, piece: $0) }
        var portions = 0
        while !runs.isEmpty {
            let index = Int.random(in: runs.indices, using: &random)
            if !runs[index].advance() { runs.remove(at: index) }
            portions += 1
        }
        #expect(portions > work.pieceCount, "seed \(seed)")
        var states = AttentionStates.unspecified(rows: expected.rows, valueDim: expected.valueDim)
        for tile in (0..<work.tileCount).reversed() { work.finish(tiles: tile..<tile + 1, into: &states) }
        withExtendedLifetime(panels) { #expect(states == expected, "seed \(seed)") }
    }

    @Test("a portion is bounded, whatever the context's length", arguments: [12_000, 200_000])
    func bound(length: Int) throws {
        for (queryHeads, kvHeads, tokens) in [(32, 8, 1), (32, 8, 2048), (128, 1, 64)] {
            let work = AttentionWork(
                attention: try LayerAttention(
                    queryHeads: queryHeads, kvHeads: kvHeads, keyDim: 128, values: .own(128), scale: 0.1),
                partition: HeadPartition(queryHeads: queryHeads, kvHeads: kvHeads, contextRanks: 1),
                heads: 0..<queryHeads, queries: QueryRows(heads: 0..<queryHeads, tokens: tokens, keyDim: 128),
                tokens: 0..<tokens, visible: .all(count: tokens, of: length),
                over: Self.unread(kvHeads: kvHeads, tokens: length))
            #expect(work.pieceCount > 0)
            for piece in 0..<work.pieceCount {
                #expect(work.portionCost(ofPiece: piece) <= PieceRun.multiplicationsMax)
            }
        }
    }

    /// Blocks for shapes alone: nothing reads them.
    private static func unread(kvHeads: Int, tokens: Int) -> KVBlocks {
        let layout = PanelLayout(format: .bfloat16, kvHeads: kvHeads, keyDim: 128, valueDim: 128, blockTokens: 64)
        let nowhere = UnsafeRawPointer(bitPattern: 64)!
        return KVBlocks(
            layout: layout, blocks: [UnsafeRawPointer](repeating: nowhere, count: (tokens + 63) / 64), tokens: tokens)
    }

    @Test("rows merged some at a time have the bits of all at once, and of what ranks correct and add up")
    func merge() throws {
        var random = SeededGenerator(seed: SeededGenerator.seed)
        let partials = (0..<3).map { _ in
            AttentionStates(
                valueDim: 16, outputs: random.floats(24 * 16, limit: 2),
                lse: (0..<24).map { $0 % 5 == 0 ? -.infinity : Double.random(in: -9...9, using: &random) })
        }
        for sinks in [[], random.floats(4, limit: 3)] {
            let all = try AttentionStates.merge(partials, sinks: sinks)
            for count in [1, 5, 24] {
                let parts = try stride(from: 0, to: 24, by: count).map { first in
                    let rows = first..<min(first + count, 24)
                    return try AttentionStates.merge(
                        partials.map { $0.slice(rows: rows) }, sinks: sinks.isEmpty ? [] : rows.map { sinks[$0 / 6] })
                }
                #expect(AttentionStates(joining: parts) == all)
            }
        }
        let combined = try AttentionStates.combinedLSE(partials.map(\.lse))
        let added = AttentionStates.sum(of: partials.map { $0.corrected(by: combined) })
        #expect(try AttentionStates.merge(partials).outputs.map(\.bitPattern) == added.map(\.bitPattern))
    }

    @Test("the memory of states is known before anything is cut", arguments: AttentionKernels.available)
    func states(kernels: AttentionKernels) {
        let shapes = [
            (32, 8, 1), (32, 8, 5), (32, 8, 32), (32, 8, 64), (64, 8, 32), (32, 8, 700), (128, 1, 1), (128, 8, 16),
            (9, 3, 40), (8, 8, 64),
        ]
        for (queryHeads, kvHeads, tokens) in shapes {
            for length in [1, 64, 1000, 12_000, 131_072, 2_000_000] {
                let partition = HeadPartition(queryHeads: queryHeads, kvHeads: kvHeads, contextRanks: 1)
                let layout = PanelLayout(
                    format: .bfloat16, kvHeads: kvHeads, keyDim: 128, valueDim: 128, blockTokens: 64)
                let split = WorkSplit(
                    partition: partition, heads: 0..<queryHeads, visible: .all(count: tokens, of: length),
                    layout: layout, rowsMax: kernels.name == "scalar" ? 256 : 64)
                let numbers = split.tiles.reduce(0) { $0 + $1.rows * $1.pieces.count * (128 + 2) }
                let bound = WorkSplit.stateByteCountMax(
                    heads: queryHeads, tokens: tokens, keyTokens: length, partition: partition, layout: layout,
                    kernels: kernels)
                #expect(numbers * 4 <= bound, "\(queryHeads)x\(kvHeads), \(tokens) on \(length)")
                #expect(bound <= 4 * numbers * 4, "\(queryHeads)x\(kvHeads), \(tokens) on \(length)")
            }
        }
    }

    @Test("a context as long as a frame may state has a bound: its bytes do not fit 64 bits")
    func longest() {
        let partition = HeadPartition(queryHeads: 1024, kvHeads: 1024, contextRanks: 1)
        let layout = PanelLayout(format: .float32, kvHeads: 1024, keyDim: 576, valueDim: 512, blockTokens: 16)
        for tokens in [1, 64] {
            let bound = WorkSplit.stateByteCountMax(
                heads: 1024, tokens: tokens, keyTokens: 1 << 48, partition: partition, layout: layout)
            #expect(bound >= 1024 * tokens * 514 * 4 && bound <= WorkSplit.piecesMax * 4 * 1024 * tokens * 514 * 4)
        }
    }
}
