// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCore
import DCPTestKit
import Testing

@Suite("windows")
struct VisibilityTests {
    /// Smaller than a block, a run of an interleave or the ranks; on the edges of groups of tokens; larger than contexts.
    static let windows = [1, 2, 3, 15, 16, 17, 47, 48, 49, 63, 64, 65, 130, 1000, LayerAttention.windowMax]

    @Test(
        "any window over any layout of ranks, chunk and context is that of dense attention",
        arguments: [1, 2, 3, 8], AttentionKernels.available)
    func layouts(ranks: Int, kernels: AttentionKernels) throws {
        var number = ranks
        for window in Self.windows {
            for (context, count) in [(0, 1), (1, 1), (46, 7), (200, 1), (201, 7), (333, 1), (170, 96), (0, 130)] {
                number += 1
                try StepCase(
                    format: CacheFormat.ofRows[number % 3], ranks: ranks, interleave: [1, 3, 16, 48][number % 4],
                    kvHeads: [1, 2, 3][number % 3], group: [1, 2, 4, 5, 8][number % 5],
                    visibility: .window(window), context: context, count: count, kernels: kernels
                ).check(salt: UInt64(number))
            }
        }
    }

    @Test("windows with blocks of any size, and a soft cap", arguments: Self.windows, Variant.all)
    func blocks(window: Int, variant: Variant) throws {
        for (number, blockTokens) in [16, 64, 80, 144].enumerated() {
            for count in [1, 20] {
                try StepCase(
                    format: variant.format, ranks: 1 + number % 2, interleave: blockTokens / 16,
                    blockTokens: blockTokens, kvHeads: 1, group: 3, visibility: .window(window),
                    softcap: number % 2 == 0 ? nil : 4, context: 300, count: count, kernels: variant.kernels
                ).check(salt: UInt64(window + number))
            }
        }
    }

    @Test("windows of several pieces, and of tokens whose weights are rounded", arguments: Variant.all)
    func large(variant: Variant) throws {
        for (group, window, context, count) in [(8, 2500, 6000, 2), (2, 9000, 10_000, 1), (2, 500, 5000, 300)] {
            try StepCase(
                format: variant.format, blockTokens: 64, kvHeads: 1, group: group, keyDim: 8, values: .own(8),
                visibility: .window(window), context: context, count: count, kernels: variant.kernels
            ).check(salt: UInt64(window), weightErrorMax: [.float16, .float32].contains(variant.format) ? 0 : 0x1p-10)
        }
    }

    @Test("queries whose tokens are in the shards see those up to their own", arguments: Variant.all)
    func cached(variant: Variant) throws {
        for (number, blockTokens) in [16, 64, 80, 144].enumerated() {
            for (context, count) in [(0, 1), (0, 20), (1, 96), (blockTokens, 7), (3 * blockTokens - 1, 2), (700, 300)] {
                for visibility in [Visibility.all, .window(1), .window(50)] {
                    try StepCase(
                        format: variant.format, ranks: 1 + number,
                        interleave: number % 2 == 0 ? 1 : blockTokens / 16,
                        blockTokens: blockTokens, kvHeads: 1, group: 5, visibility: visibility,
                        softcap: number % 2 == 0 ? nil : 4, context: context, count: count, isCached: true,
                        kernels: variant.kernels
                    ).check(salt: UInt64(context + number))
                }
            }
        }
    }

    @Test("each query sees the tokens of a shard that its window names by their positions", arguments: [1, 2, 3, 7])
    func ranges(ranks: Int) throws {
        for (interleave, window, position, count) in [
            (1, 1, 0, 3), (4, 5, 0, 30), (16, 20, 100, 7), (48, 64, 95, 100), (3, 1000, 500, 2), (1, 2, 33, 1),
        ] {
            let layout = try ContextLayout(contextRanks: ranks, interleave: interleave, blockTokens: 48)
            let visibility = Visibility.window(window)
            for rank in 0..<ranks {
                let owned = (0..<position).filter { layout.owner(ofPosition: $0) == rank }
                let first = layout.localLength(ofRank: rank, length: visibility.first(seenFrom: position))
                #expect(first == owned.firstIndex { $0 > position - window } ?? owned.count)
                let start = first / 48 * 48
                let visible = VisibleTokens.context(
                    visibility, seenFrom: position..<position + count, of: layout, rank: rank,
                    local: LocalIndex(start)..<LocalIndex(owned.count))
                for token in 0..<count {
                    let seen = owned.indices.filter { owned[$0] > position + token - window }.map { $0 - start }
                    #expect(Array(visible[token]) == seen)
                }
            }
            for rank in 0..<ranks {
                let owned = (0..<position + count).filter { layout.owner(ofPosition: $0) == rank }
                let start = layout.localLength(ofRank: rank, length: visibility.first(seenFrom: position)) / 48 * 48
                let visible = VisibleTokens.context(
                    visibility, seenFrom: position..<position + count, areOwn: true, of: layout, rank: rank,
                    local: LocalIndex(start)..<LocalIndex(owned.count))
                for token in 0..<count {
                    let last = position + token
                    let seen = owned.indices.filter { owned[$0] > last - window && owned[$0] <= last }
                    #expect(Array(visible[token]) == seen.map { $0 - start })
                }
            }
            let new = VisibleTokens.new(visibility, at: position..<position + count)
            for token in 0..<count {
                #expect(Array(new[token]) == (0...token).filter { $0 > token - window })
            }
        }
    }

    @Test("blocks that no row of a piece sees are in no piece, and a window's cut is that of a context as long")
    func split() {
        let layout = PanelLayout(format: .bfloat16, kvHeads: 8, keyDim: 128, valueDim: 128, blockTokens: 64)
        let partition = HeadPartition(queryHeads: 32, kvHeads: 8, contextRanks: 1)
        for (window, count) in [(1024, 1), (1024, 7), (100, 512), (1, 96), (200_000, 3)] {
            let context = 131_072
            guard let dealt = try? ContextLayout(contextRanks: 1, interleave: 1, blockTokens: 64) else { return }
            let visible = VisibleTokens.context(
                .window(window), seenFrom: context..<context + count, of: dealt, rank: 0,
                local: LocalIndex(0)..<LocalIndex(context))
            let split = WorkSplit(
                partition: partition, heads: 0..<32, visible: visible, layout: layout, rowsMax: 64)
            for tile in split.tiles {
                let first = max(0, context + tile.tokens.lowerBound - window + 1)
                #expect(tile.seen == min(first, context)..<context)
                for piece in split.pieces[tile.pieces] {
                    let seen = piece.tiles.map { split.tiles[$0].seen.lowerBound }.min() ?? 0
                    #expect(piece.keys.lowerBound >= seen / 64 * 64 && piece.keys.lowerBound % 64 == 0)
                }
            }
            let reread = split.pieces.reduce(0) { $0 + $1.keys.count }
            let bundles = split.pieces.isEmpty ? 0 : Set(split.pieces.map(\.tiles.lowerBound)).count
            #expect(reread <= bundles * min(context, window + 64 + 63))
            #expect(split.pieces.count <= max(WorkSplit.piecesMax, split.tiles.count))
        }
    }
}
