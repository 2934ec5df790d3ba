// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCore
import DCPTestKit
import Glibc
import Testing

@Suite("merge")
struct MergeTests {
    private func state(_ output: Float, _ lse: Double) -> AttentionStates {
        AttentionStates(valueDim: 1, outputs: [output], lse: [lse])
    }

    private func random(_ generator: inout SeededGenerator, rows: Int = 6, valueDim: Int = 8) -> AttentionStates {
        AttentionStates(
            valueDim: valueDim, outputs: generator.floats(rows * valueDim, limit: 4),
            lse: generator.floats(rows, limit: 12).map { Double($0) })
    }

    private func isClose(_ a: AttentionStates, _ b: AttentionStates, _ tolerance: Double = 1e-5) -> Bool {
        zip(a.outputs.map { Double($0) } + a.lse, b.outputs.map { Double($0) } + b.lse)
            .allSatisfy { $0 == $1 || abs($0 - $1) <= tolerance }
    }

    @Test("golden values: contiguous and interleaved halves merge to the dense result")
    func golden() throws {
        let halves = try AttentionStates.merge([
            state(1.731_058_578, 1.313_261_688), state(6.924_234_315, 3.313_261_688),
        ])
        let dealt = try AttentionStates.merge([
            state(3.642_391_234, 2.126_928_011), state(7.284_782_468, 3.126_928_011),
        ])
        for merged in [halves, dealt] {
            #expect(abs(merged.outputs[0] - 6.305_192_592) < 1e-6)
            #expect(abs(merged.lse[0] - 3.440_189_699) < 1e-6)
        }
    }

    @Test("golden values: the kernels give the dense result and both kinds of halves", arguments: CacheFormat.ofRows)
    func goldenKernels(format: CacheFormat) throws {
        // Scores 0, 1, 2, 3 and values 1, 2, 4, 8: dimension 0 of the key is the score, the query is 1 there.
        let dim = 8
        func attend(_ tokens: [Int], count: Int) throws -> AttentionStates {
            let layout = PanelLayout(format: format, kvHeads: 1, keyDim: dim, valueDim: dim, blockTokens: 16)
            let zeros = [Float](repeating: 0, count: dim - 1)
            let panels = TestPanels(
                layout: layout, keys: tokens.flatMap { [Float($0)] + zeros },
                values: tokens.flatMap { [Float](repeating: Float(1 << $0), count: dim) }, tokens: tokens.count)
            let work = AttentionWork(
                attention: try LayerAttention(queryHeads: 1, kvHeads: 1, keyDim: dim, values: .own(dim), scale: 1),
                partition: HeadPartition(queryHeads: 1, kvHeads: 1, contextRanks: 1), heads: 0..<1,
                queries: QueryRows(
                    heads: 0..<1, tokens: count, keyDim: dim,
                    values: (0..<count).flatMap { _ in [Float(1)] + zeros }),
                tokens: 0..<count, visible: .all(count: count, of: tokens.count), over: panels.blocks)
            for piece in 0..<work.pieceCount { work.run(piece: piece) }
            var states = AttentionStates.empty(rows: count, valueDim: dim)
            withExtendedLifetime(panels) { work.finish(into: &states) }
            return states
        }
        // Values are up to 8; weights that are sums of two bf16 are off by up to 2^-17.
        let tolerance: Float = format == .bfloat16 ? 8 * 0x1p-17 : 2e-6
        for count in [1, 32] {
            for (tokens, output, lse) in [
                ([0, 1, 2, 3], Float(6.305_192_592), 3.440_189_699),
                ([0, 1], 1.731_058_578, 1.313_261_688), ([2, 3], 6.924_234_315, 3.313_261_688),
                ([0, 2], 3.642_391_234, 2.126_928_011), ([1, 3], 7.284_782_468, 3.126_928_011),
            ] {
                let states = try attend(tokens, count: count)
                #expect(states.outputs.allSatisfy { abs($0 - output) < tolerance })
                #expect(states.lse.allSatisfy { abs($0 - lse) < 1e-6 })
            }
        }
    }

    @Test("TRAPS 1 to 3: a base-2 log-sum-exp in the merge gives the known wrong value; its type converts it")
    func base2() throws {
        let log2e = 1.442_695_040_888_963_4
        let mixedUp = try AttentionStates.merge([
            state(3.642_391_234, 2.126_928_011 * log2e), state(7.284_782_468, 3.126_928_011 * log2e),
        ])
        #expect(abs(mixedUp.outputs[0] - 6.588_618_231) < 1e-5)
        #expect(abs(mixedUp.outputs[0] - 6.305_192_592) > 0.2)
        let converted = try AttentionStates.merge([
            state(3.642_391_234, NaturalLogSumExp(base2: 2.126_928_011 * log2e).value),
            state(7.284_782_468, NaturalLogSumExp(base2: 3.126_928_011 * log2e).value),
        ])
        #expect(abs(converted.outputs[0] - 6.305_192_592) < 2e-6)
        #expect(NaturalLogSumExp(base2: -.infinity).isEmpty)
    }

    @Test("associative and commutative within rounding")
    func algebra() throws {
        var generator = SeededGenerator.ofRun(salt: 3)
        for _ in 0..<20 {
            let a = random(&generator), b = random(&generator), c = random(&generator)
            let all = try AttentionStates.merge([a, b, c])
            #expect(isClose(all, try AttentionStates.merge([try AttentionStates.merge([a, b]), c])))
            #expect(isClose(all, try AttentionStates.merge([a, try AttentionStates.merge([b, c])])))
            #expect(isClose(all, try AttentionStates.merge([c, a, b])))
            #expect(isClose(all, try AttentionStates.merge([.empty(rows: 6, valueDim: 8), a, b, c])))
        }
    }

    @Test("one partial keeps its bits, and so do empty ones beside it")
    func identity() throws {
        var generator = SeededGenerator.ofRun(salt: 4)
        var one = random(&generator, rows: 40)
        one.outputs[3] = -0.0
        one.lse[7] = -.infinity
        for index in 7 * 8..<8 * 8 { one.outputs[index] = 0 }
        let merged = try AttentionStates.merge([one])
        #expect(merged.outputs.map(\.bitPattern) == one.outputs.map(\.bitPattern))
        #expect(merged.lse.map(\.bitPattern) == one.lse.map(\.bitPattern))
        let empty = AttentionStates.empty(rows: 40, valueDim: 8)
        #expect(try AttentionStates.merge([empty, one, empty]) == one)
    }

    @Test("TRAPS 4, 7: leading empty partials, 1 to all of them, poison nothing", arguments: 0...8)
    func leadingEmpty(count: Int) throws {
        var generator = SeededGenerator.ofRun(salt: UInt64(count))
        let partials = (0..<8).map { index in
            index < count ? AttentionStates.empty(rows: 6, valueDim: 8) : random(&generator)
        }
        let merged = try AttentionStates.merge(partials)
        if count == 8 {
            #expect(merged == .empty(rows: 6, valueDim: 8))
        } else {
            #expect(isClose(merged, try AttentionStates.merge(Array(partials[count...]))))
            #expect(merged.outputs.allSatisfy { $0.isFinite } && merged.lse.allSatisfy { $0.isFinite })
        }
    }

    @Test("TRAPS 5, 9: NaN in the output of an empty partial does not get through, alone or beside others")
    func nanInEmpty() throws {
        var generator = SeededGenerator.ofRun(salt: 5)
        let full = random(&generator)
        var poisoned = AttentionStates.empty(rows: 6, valueDim: 8)
        for index in poisoned.outputs.indices { poisoned.outputs[index] = index % 2 == 0 ? .nan : .infinity }
        #expect(try AttentionStates.merge([poisoned, full]) == full)
        #expect(try AttentionStates.merge([poisoned, poisoned]) == .empty(rows: 6, valueDim: 8))
        // A weight that underflows is 0 as well.
        poisoned.lse = [Double](repeating: -1e30, count: 6)
        #expect(try AttentionStates.merge([full, poisoned]) == full)
    }

    @Test(
        "TRAPS 6: a NaN or +inf log-sum-exp is an error that names the partial and the row",
        arguments: [
            Double.nan, .infinity,
        ])
    func faults(value: Double) throws {
        var generator = SeededGenerator.ofRun(salt: 6)
        var partials = [random(&generator), random(&generator), random(&generator)]
        partials[2].lse[4] = value
        let error = #expect(throws: ServiceError.self) { try AttentionStates.merge(partials) }
        #expect(error?.code == .internal)
        #expect(error?.message.contains("Partial 2") == true && error?.message.contains("row 4") == true)
    }

    @Test("a sink counts once in its head's rows, whatever the parts; without tokens it is all there is")
    func sinks() throws {
        var generator = SeededGenerator.ofRun(salt: 8)
        let sinks: [Float] = [3, -40, 0.5]
        // Two tokens of each of three heads.
        let parts = (0..<3).map { _ in random(&generator) } + [.empty(rows: 6, valueDim: 8)]
        let plain = try AttentionStates.merge(parts)
        let merged = try AttentionStates.merge(
            [AttentionStates.merge(parts), .empty(rows: 6, valueDim: 8)], sinks: sinks)
        for row in 0..<6 {
            let sink = Double(sinks[row / 2])
            let lse = plain.lse[row] + log1p(exp(sink - plain.lse[row]))
            #expect(abs(merged.lse[row] - lse) < 1e-12)
            for dim in row * 8..<(row + 1) * 8 {
                #expect(
                    abs(Double(merged.outputs[dim]) - Double(plain.outputs[dim]) * exp(plain.lse[row] - lse)) < 1e-6)
            }
        }
        let alone = try AttentionStates.merge([.empty(rows: 6, valueDim: 8)], sinks: sinks)
        #expect(alone.lse == [3, 3, -40, -40, 0.5, 0.5] && alone.outputs.allSatisfy { $0 == 0 })
        // A rank that owns no head.
        #expect(try AttentionStates.merge([.empty(rows: 0, valueDim: 8)], sinks: []).rows == 0)
        // A head that its sink outweighs keeps nothing of its tokens, and one whose sink is far below keeps its bits.
        let heavy = try AttentionStates.merge([plain], sinks: [1e4, -1e4, -.infinity])
        #expect(heavy.outputs[..<16].allSatisfy { $0 == 0 } && heavy.lse[..<2].allSatisfy { $0 == 1e4 })
        #expect(heavy.slice(rows: 2..<6) == plain.slice(rows: 2..<6))
    }

    @Test("both exchange forms give the same bits: merged slices of heads, and shares summed by slice")
    func exchangeForms() throws {
        var generator = SeededGenerator.ofRun(salt: 7)
        let partials = (0..<4).map { _ in random(&generator, rows: 9 * 2) }
        let partition = HeadPartition(queryHeads: 9, kvHeads: 3, contextRanks: 4)
        let combined = try AttentionStates.combinedLSE(partials.map(\.lse))
        for rank in 0..<4 {
            let heads = partition.ownHeads(ofRank: rank)
            let rows = heads.lowerBound * 2..<heads.upperBound * 2
            let allToAll = try AttentionStates.merge(partials.map { $0.slice(rows: rows) })
            let shares = partials.map { Array($0.corrected(by: combined)[rows.lowerBound * 8..<rows.upperBound * 8]) }
            #expect(AttentionStates.sum(of: shares).map(\.bitPattern) == allToAll.outputs.map(\.bitPattern))
            #expect(combined.slice(rows: rows).values == allToAll.lse)
        }
    }

    @Test("TRAPS 8, 9: shards of any split, empty ones too, merge to the dense result", arguments: 1...8, [1, 3, 16])
    func shards(ranks: Int, interleave: Int) throws {
        let layout = try ContextLayout(contextRanks: ranks, interleave: interleave, blockTokens: 48)
        for (length, count) in [(1, 1), (2, 7), (15, 1), (33, 20), (100, 2)] {
            let problem = AttentionCase(format: .bfloat16, keyDim: 32, valueDim: 32, count: count, length: length)
            let inputs = problem.inputs(salt: UInt64(length))
            let partials = try (0..<ranks).map { rank in
                let owned = (0..<length).filter { layout.owner(ofPosition: $0) == rank }
                var shard = problem
                shard.length = owned.count
                let row = problem.kvHeads * 32
                var part = inputs
                part.keys = owned.flatMap { inputs.keys[$0 * row..<($0 + 1) * row] }
                part.values = owned.flatMap { inputs.values[$0 * row..<($0 + 1) * row] }
                return try shard.states(part)
            }
            let merged = try AttentionStates.merge(partials)
            let difference = Difference(merged, try problem.reference(inputs), tokens: count)
            #expect(difference.output < 1e-5 && difference.lse < 1e-5, "\(ranks) ranks, \(length) tokens")
            if ranks == 1 { #expect(merged == partials[0]) }
        }
    }
}
