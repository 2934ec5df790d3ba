// SPDX-License-Identifier: Apache-2.0

import DCPCore
import Testing

@Suite("ownership of tokens")
struct ContextLayoutTests {
    private func layout(_ ranks: Int, _ interleave: Int, blockTokens: Int = 48) throws -> ContextLayout {
        try ContextLayout(
            contextRanks: ranks, interleave: interleave,
            blockTokens: blockTokens % interleave == 0 ? blockTokens : 16 * interleave)
    }

    @Test("TRAPS 34: every formula agrees with dealing tokens out one by one", arguments: 1...8, [1, 2, 3, 4, 8, 16])
    func bruteForce(ranks: Int, interleave: Int) throws {
        let layout = try layout(ranks, interleave)
        var owned = [[Int]](repeating: [], count: ranks)
        var dealer = 0
        for position in 0..<300 {
            for rank in 0..<ranks {
                #expect(layout.localLength(ofRank: rank, length: position) == owned[rank].count)
            }
            #expect((0..<ranks).reduce(0) { $0 + layout.localLength(ofRank: $1, length: position) } == position)
            if position > 0, position % interleave == 0 { dealer = (dealer + 1) % ranks }
            #expect(layout.owner(ofPosition: position) == dealer)
            let index = owned[dealer].count
            #expect(layout.localIndex(ofPosition: position) == index)
            #expect(layout.position(ofLocalIndex: index, rank: dealer) == position)
            #expect(layout.block(ofLocalIndex: index) == (index / layout.blockTokens, index % layout.blockTokens))
            owned[dealer].append(position)
        }
    }

    @Test("TRAPS 35: the tokens a growing sequence gains are those owned in between", arguments: 1...8, [1, 3, 16])
    func localRange(ranks: Int, interleave: Int) throws {
        let layout = try layout(ranks, interleave)
        for (start, count) in [(0, 0), (0, 1), (5, 1), (7, 8), (15, 2), (47, 100), (299, 1)] {
            for rank in 0..<ranks {
                let owned = (start..<start + count).filter { layout.owner(ofPosition: $0) == rank }
                let range = layout.localRange(ofRank: rank, from: start, to: start + count)
                #expect(owned.map { layout.localIndex(ofPosition: $0) } == Array(range))
            }
        }
    }

    @Test("offsets of local tokens are their positions", arguments: 1...8, [1, 3, 16])
    func offsets(ranks: Int, interleave: Int) throws {
        let layout = try layout(ranks, interleave)
        for rank in 0..<ranks {
            for range in [0..<0, 0..<1, 1..<5, 7..<120, 48..<96, 95..<97] {
                let positions = range.map { layout.position(ofLocalIndex: $0, rank: rank) }
                let origin = max((positions.first ?? 0) - 5, 0)
                let offsets = layout.offsets(ofLocalIndices: range, rank: rank, from: origin)
                #expect(offsets.map { Int($0) + origin } == positions)
            }
        }
    }

    @Test("the example of vllm #25438: 25 tokens on 4 ranks")
    func example() throws {
        let layout = try layout(4, 1)
        #expect((0..<25).filter { layout.owner(ofPosition: $0) == 0 } == [0, 4, 8, 12, 16, 20, 24])
        #expect((0..<4).map { layout.localLength(ofRank: $0, length: 25) } == [7, 6, 6, 6])
    }

    @Test("TRAPS 10: a short sequence leaves ranks empty, and every rank can tell from the global length")
    func shortSequences() throws {
        for (ranks, interleave, length, expected) in [
            (2, 16, 10, [10, 0]), (4, 16, 10, [10, 0, 0, 0]), (8, 16, 10, [10, 0, 0, 0, 0, 0, 0, 0]),
            (4, 1, 2, [1, 1, 0, 0]),
        ] {
            let layout = try layout(ranks, interleave)
            #expect((0..<ranks).map { layout.localLength(ofRank: $0, length: length) } == expected)
        }
    }

    @Test("TRAPS 30: the owner depends on the position alone, the first one included")
    func owner() throws {
        let layout = try layout(4, 16, blockTokens: 64)
        #expect(layout.owner(ofPosition: 0) == 0)
        #expect(layout.owner(ofPosition: 15) == 0)
        #expect(layout.owner(ofPosition: 16) == 1)
        #expect(layout.owner(ofPosition: 63) == 3)
        #expect(layout.owner(ofPosition: 64) == 0)
    }

    @Test("TRAPS 31: no rank ever holds more than the interleave above another", arguments: 1...8, [1, 2, 3, 4, 8, 16])
    func balance(ranks: Int, interleave: Int) throws {
        let layout = try layout(ranks, interleave)
        for length in 0..<2000 {
            let lengths = (0..<ranks).map { layout.localLength(ofRank: $0, length: length) }
            #expect((lengths.max() ?? 0) - (lengths.min() ?? 0) <= interleave)
        }
    }

    @Test("TRAPS 32: fewer blocks than ranks: one block of tokens on 8 ranks")
    func fewerBlocksThanRanks() throws {
        let layout = try layout(8, 16, blockTokens: 16)
        #expect((0..<8).map { layout.localLength(ofRank: $0, length: 16) } == [16, 0, 0, 0, 0, 0, 0, 0])
        #expect((0..<8).map { layout.localRange(ofRank: $0, from: 16, to: 32).count } == [0, 16, 0, 0, 0, 0, 0, 0])
    }

    @Test("equal blocks of all ranks cover the same positions when the interleave divides the block")
    func blocksCoverTheSamePositions() throws {
        for (ranks, interleave, blockTokens) in [(2, 1, 16), (3, 16, 16), (4, 4, 48), (5, 24, 48)] {
            let layout = try ContextLayout(
                contextRanks: ranks, interleave: interleave, blockTokens: blockTokens)
            for position in 0..<1000 {
                let block = layout.block(ofLocalIndex: layout.localIndex(ofPosition: position)).block
                #expect(block == position / (ranks * blockTokens))
            }
        }
    }

    @Test("settings that cannot work are refused with the value and the remedy")
    func validation() {
        for (ranks, interleave, blockTokens, words) in [
            (0, 1, 64, ["0 context ranks", "1...1024"]), (1025, 1, 64, ["1025 context ranks"]),
            (2, 3, 64, ["64 tokens", "interleave 3", "--interleave"]), (2, 0, 64, ["interleave 0"]),
            (2, 128, 64, ["interleave 128"]), (2, 1, 40, ["40 tokens", "multiple of 16", "--block-tokens"]),
            (2, 1, 0, ["0 tokens"]), (2, 1, 8192, ["8192 tokens", "4096"]),
        ] {
            let error = #expect(throws: ServiceError.self) {
                try ContextLayout(contextRanks: ranks, interleave: interleave, blockTokens: blockTokens)
            }
            #expect(error?.code == .invalidConfiguration)
            for word in words { #expect(error?.message.contains(word) == true, "\(error?.message ?? "") has \(word)") }
        }
    }
}
