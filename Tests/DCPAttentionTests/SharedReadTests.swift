// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCore
import DCPTestKit
import Testing

@Suite("one read for many")
struct SharedReadTests {
    @Test(
        "forks of one prefix have the bits that each has alone, on every rank", arguments: Variant.all, [1, 2, 3])
    func forks(variant: Variant, ranks: Int) throws {
        let prefix = 3000 * ranks
        for (number, group) in [1, 2, 3, 4, 8].enumerated() {
            var family = Family(variant, ranks: ranks, group: group)
            family.add(prefix + 64, times: [16, 5, 3, 2, 9][number], sharing: prefix)
            try family.check(salt: UInt64(number), sharesMost: true)
        }
    }

    @Test("lengths and forks around the edges of blocks, and entries of several tokens", arguments: Variant.all)
    func edges(variant: Variant) throws {
        for (number, shared) in [64 * 40 - 1, 64 * 40, 64 * 40 + 1, 2048, 2047].enumerated() {
            var family = Family(variant, ranks: 1, group: 2)
            for own in [0, 1, 63, 64, 65, 700, 3000] {
                family.add(shared + own, sharing: shared, count: 1 + (own + number) % 3)
            }
            try family.check(salt: UInt64(100 + number), sharesMost: false)
        }
    }

    @Test("forks of forks share with each what they have in common with it", arguments: Variant.all)
    func tree(variant: Variant) throws {
        var family = Family(variant, ranks: 1, group: 4)
        family.add(6100, sharing: 0)
        for (parent, shared, length) in [
            (0, 64, 5000), (1, 2900, 5100), (1, 4000, 4100), (0, 5000, 5090), (4, 5050, 6000), (2, 3000, 3001),
            (0, 6050, 14_000), (0, 100, 2300),
        ] {
            family.add(length, sharing: shared, with: parent)
        }
        try family.check(salt: 200, sharesMost: false)
    }

    @Test("with windows, from the block in which they begin", arguments: Variant.all, [1, 2])
    func windows(variant: Variant, ranks: Int) throws {
        for (number, window) in [1, 900, 2500, 100_000].enumerated() {
            var family = Family(variant, ranks: ranks, group: 4)
            family.visibility = .window(window * ranks)
            family.softcap = number == 1 ? 4 : nil
            for own in [10, 10, 11, 12, 75, 300] {
                family.add((3000 + own) * ranks, sharing: 3000 * ranks, count: 1 + number % 2)
            }
            try family.check(salt: UInt64(300 + number), sharesMost: false)
        }
    }

    @Test("latent attention, whose values are made of keys once for all", arguments: Variant.ofRows)
    func latent(variant: Variant) throws {
        for (number, group) in [4, 16, 32].enumerated() {
            var family = Family(variant, ranks: 1, group: group)
            (family.kvHeads, family.keyDim, family.values) = (1, 288, .leading(256))
            for own in [1, 1, 40, 64, 200] { family.add(3000 + own, sharing: 3000) }
            try family.check(salt: UInt64(400 + number), sharesMost: false)
        }
    }

    @Test("sums of more tokens than a state takes", arguments: AttentionKernels.available)
    func carried(kernels: AttentionKernels) throws {
        let problem = AttentionCase(
            format: .bfloat16, kvHeads: 1, group: 2, keyDim: 8, valueDim: 8, length: 4096, blockTokens: 4096,
            kernels: kernels)
        let inputs = problem.inputs(salt: 9)
        let panels = TestPanels(layout: problem.layout, keys: inputs.keys, values: inputs.values, tokens: 4096)
        // The same block many times: a long context of little memory.
        let lengths = [200_000, 200_001, 700_000, 210_000]
        let queries = QueryRows(
            heads: 0..<2, tokens: lengths.count, keyDim: 8,
            values: (0..<lengths.count).flatMap { _ in inputs.queries[..<16] })
        let attention = try problem.attention()
        let taken = try Self.compare(salt: 9, rows: 2 * lengths.count, valueDim: 8, blockTokens: 4096) {
            lengths.enumerated().map { place, length in
                AttentionWork(
                    attention: attention, partition: problem.partition, heads: 0..<2, queries: queries,
                    tokens: place..<place + 1, visible: .all(count: 1, of: length),
                    over: KVBlocks(
                        layout: problem.layout,
                        blocks: [UnsafeRawPointer](repeating: panels.blocks.blocks[0], count: (length + 4095) / 4096),
                        tokens: length), kernels: kernels)
            }
        }
        withExtendedLifetime(panels) {}
        #expect(kernels.name == "scalar" || taken.allSatisfy { $0 > 1 }, "\(taken)")
    }

    @Test("the pieces of any two entries that begin at one place lie in each other")
    func nested() {
        var random = SeededGenerator(seed: SeededGenerator.seed)
        let partition = HeadPartition(queryHeads: 32, kvHeads: 8, contextRanks: 1)
        for _ in 0..<300 {
            let layout = PanelLayout(
                format: .bfloat16, kvHeads: 8, keyDim: 128, valueDim: 128,
                blockTokens: [16, 48, 64, 4096].randomElement(using: &random)!)
            let ends = (0..<2).map { _ in
                let tokens = Int.random(in: 1...1 << Int.random(in: 6...20, using: &random), using: &random)
                return WorkSplit(
                    partition: partition, heads: 0..<32,
                    visible: .all(count: Int.random(in: 1...8, using: &random), of: tokens), layout: layout, rowsMax: 64
                ).pieces.map(\.keys.upperBound)
            }
            let common = min(ends[0][ends[0].count - 1], ends[1][ends[1].count - 1])
            var (first, second) = (0, 0)
            // Of what both have, up to each end that is of the longer piece.
            while ends[0][first] < common, ends[1][second] < common {
                while ends[0][first] < ends[1][second] { first += 1 }
                while ends[1][second] < ends[0][first] { second += 1 }
                guard max(ends[0][first], ends[1][second]) < common else { break }
                #expect(ends[0][first] == ends[1][second], "DCP_SEED=\(SeededGenerator.seed)")
                (first, second) = (first + 1, second + 1)
            }
        }
    }

    /// Computes works together, in any order and portions, and each alone.
    /// - Parameters:
    ///   - rows: heads times the step's tokens.
    ///   - make: the same works each time.
    /// - Returns: how many pieces the shared reads took of each.
    @discardableResult
    fileprivate static func compare(
        salt: UInt64, rows: Int, valueDim: Int, blockTokens: Int, _ make: () throws -> [AttentionWork]
    ) throws -> [Int] {
        let together = try make()
        let found = SharedRead.find(in: together)
        var random = SeededGenerator.ofRun(salt: salt)
        var runs: [any PortionRun] = []
        for read in found.reads {
            for piece in 0..<read.pieceCount {
                let blocks = Int.random(in: 1...40, using: &random)
                runs.append(SharedRun(read, piece: piece, portionTokens: blocks > 20 ? nil : blocks * blockTokens))
            }
        }
        for (work, taken) in zip(together, found.taken) {
            for piece in taken..<work.pieceCount { runs.append(PieceRun(work, piece: piece)) }
        }
        while let place = runs.indices.randomElement(using: &random) {
            if !runs[place].advance() { runs.remove(at: place) }
        }
        for (place, (alone, beside)) in zip(try make(), together).enumerated() {
            for piece in 0..<alone.pieceCount { alone.run(piece: piece) }
            let results = [alone, beside].map { work in
                var states = AttentionStates(
                    valueDim: valueDim, outputs: [Float](repeating: -7, count: rows * valueDim),
                    lse: [Double](repeating: -7, count: rows))
                work.finish(into: &states)
                return (states.outputs.map(\.bitPattern), states.lse.map(\.bitPattern))
            }
            #expect(results[0] == results[1], "entry \(place); DCP_SEED=\(SeededGenerator.seed)")
        }
        return found.taken
    }
}

/// Sequences of which some are forks of others, each with query tokens of one step.
private struct Family {
    /// Global tokens; those that it has in common with its parent, whose full blocks are its own.
    private struct Member {
        let length: Int
        let count: Int
        let parent: Int?
        let shared: Int
    }

    let variant: Variant
    let ranks: Int
    let group: Int
    var kvHeads = 2
    var keyDim = 128
    var values = LayerAttention.Values.own(96)
    var visibility = Visibility.all
    var softcap: Float?
    private var members: [Member] = []
    private static let blockTokens = 64

    init(_ variant: Variant, ranks: Int, group: Int) {
        self.variant = variant
        self.ranks = ranks
        self.group = group
    }

    /// - Parameters:
    ///   - count: query tokens.
    ///   - shared: tokens that it has in common with another.
    ///   - parent: which; the first unless told.
    mutating func add(_ length: Int, times: Int = 1, sharing shared: Int, with parent: Int = 0, count: Int = 1) {
        for _ in 0..<times {
            let isFirst = members.isEmpty
            members.append(
                Member(length: length, count: count, parent: isFirst ? nil : parent, shared: isFirst ? 0 : shared))
        }
    }

    /// Compares each entry's bits beside the others with those that it has alone.
    /// - Parameter sharesMost: whether nearly all of what they have in common has to be read once.
    func check(salt: UInt64, sharesMost: Bool) throws {
        let attention = try LayerAttention(
            queryHeads: kvHeads * group, kvHeads: kvHeads, keyDim: keyDim, values: values,
            scale: LayerAttention.defaultScale(keyDim: keyDim), softcap: softcap, visibility: visibility)
        let partition = HeadPartition(queryHeads: kvHeads * group, kvHeads: kvHeads, contextRanks: ranks)
        let layout = try ContextLayout(contextRanks: ranks, interleave: 1, blockTokens: Self.blockTokens)
        let panels = PanelLayout(attention, variant.format, kvHeads: kvHeads, blockTokens: Self.blockTokens)
        let heads = 0..<kvHeads * group, tokens = members.reduce(0) { $0 + $1.count }
        for rank in 0..<ranks {
            var random = SeededGenerator.ofRun(salt: salt + UInt64(rank) << 32)
            let (blocks, owners) = blocks(ofRank: rank, layout, panels, &random)
            // Some in one term of bf16, and some in three.
            var numbers = random.floats(heads.count * tokens * keyDim, limit: 4)
            for index in numbers.indices where index / keyDim % 3 == 0 {
                numbers[index] = Rounding.rounded([numbers[index]], to: .bfloat16)[0]
            }
            let queries = QueryRows(heads: heads, tokens: tokens, keyDim: keyDim, values: numbers)
            let taken = try SharedReadTests.compare(
                salt: salt, rows: heads.count * tokens, valueDim: attention.valueDim, blockTokens: Self.blockTokens
            ) {
                var start = 0
                return members.enumerated().map { place, member in
                    defer { start += member.count }
                    let positions = member.length..<member.length + member.count
                    let end = layout.localLength(ofRank: rank, length: member.length)
                    let first = layout.localLength(ofRank: rank, length: visibility.first(seenFrom: member.length))
                    let local = first / Self.blockTokens * Self.blockTokens..<end
                    return AttentionWork(
                        attention: attention, partition: partition, heads: heads, queries: queries,
                        tokens: start..<start + member.count,
                        visible: .context(
                            visibility, seenFrom: positions, of: layout, rank: rank,
                            local: LocalIndex(local.lowerBound)..<LocalIndex(local.upperBound)),
                        over: KVBlocks(
                            layout: panels, blocks: Array(blocks[place][(local.lowerBound / Self.blockTokens)...]),
                            tokens: local.count), kernels: variant.kernels)
                }
            }
            withExtendedLifetime(owners) {}
            if variant.kernels.name == "scalar" { #expect(taken.allSatisfy { $0 == 0 }) }
            // What is shared of formats of bytes is smaller than a piece.
            guard sharesMost, variant.kernels.name != "scalar", !variant.format.hasScales else { continue }
            #expect(taken.allSatisfy { $0 >= 1 }, "\(taken)")
        }
    }

    /// Each member's blocks on a rank, and what holds them.
    private func blocks(
        ofRank rank: Int, _ layout: ContextLayout, _ panels: PanelLayout, _ random: inout SeededGenerator
    ) -> ([[UnsafeRawPointer]], [TestPanels]) {
        var blocks: [[UnsafeRawPointer]] = []
        var owners: [TestPanels] = []
        for member in members {
            let shared = layout.localLength(ofRank: rank, length: member.shared) / Self.blockTokens
            let count = layout.localLength(ofRank: rank, length: member.length) - shared * Self.blockTokens
            let own = TestPanels(
                layout: panels, keys: random.floats(count * kvHeads * keyDim, limit: 1),
                values: random.floats(count * kvHeads * panels.ownValueDim, limit: 1), tokens: count)
            blocks.append((member.parent.map { Array(blocks[$0][..<shared]) } ?? []) + own.blocks.blocks)
            owners.append(own)
        }
        return (blocks, owners)
    }
}
