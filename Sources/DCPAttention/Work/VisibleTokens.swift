// SPDX-License-Identifier: Apache-2.0

public import DCPCore

/// Which key tokens each of an entry's query tokens sees: a range for each, numbered in the blocks that are attended over.
///
/// Ranges are made from global positions, here and nowhere else: a window's first token is a position, and each rank looks
/// up which of its own tokens is the first at or after it. A further kind of visibility is a case of `Visibility` and no
/// change here.
///
/// Neither end of a range falls from one query token to the next; kernels and `WorkSplit` rely on it.
public struct VisibleTokens: Hashable, Sendable {
    /// Query tokens.
    public let count: Int
    /// Key tokens in all blocks.
    public let keyTokens: Int
    /// Whether key token i is query token i's own, and the last that it sees. Otherwise each sees up to the last.
    let areOwn: Bool
    /// For each query token the first that it sees; nil where all see from the first on, which is not looked up for each.
    private let firsts: [Int]?
    /// For each query token where what it sees ends; nil where that is the last key token for all, or its own.
    private let ends: [Int]?

    private init(count: Int, keyTokens: Int, areOwn: Bool, firsts: [Int]?, ends: [Int]? = nil) {
        precondition(count >= 0 && keyTokens >= 0)
        self.count = count
        self.keyTokens = keyTokens
        self.areOwn = areOwn
        self.firsts = firsts
        self.ends = ends
    }

    /// Each of some query tokens sees all key tokens.
    public static func all(count: Int, of keyTokens: Int) -> VisibleTokens {
        VisibleTokens(count: count, keyTokens: keyTokens, areOwn: false, firsts: nil)
    }

    /// Of the tokens that a step brings for an entry: each sees itself and those before it, as far as `visibility` goes.
    /// - Parameter positions: the entry's.
    public static func new(_ visibility: Visibility, at positions: Range<Int>) -> VisibleTokens {
        VisibleTokens(
            count: positions.count, keyTokens: positions.count, areOwn: true,
            firsts: firsts(visibility, positions) { max($0 - positions.lowerBound, 0) })
    }

    /// Of a rank's shard of the context of an entry.
    /// - Parameters:
    ///   - positions: the entry's.
    ///   - areOwn: whether the shard's tokens go up to the last of `positions`, so that each query token sees those up to its
    ///     own; else all are before `positions`.
    ///   - local: the tokens of the shard that are in the blocks. The first is a block's, and not after one that is seen;
    ///     the end is the shard's length.
    public static func context(
        _ visibility: Visibility, seenFrom positions: Range<Int>, areOwn: Bool = false, of layout: ContextLayout,
        rank: Int, local: Range<LocalIndex>
    ) -> VisibleTokens {
        let shard = Shard(layout, contextRank: rank)
        precondition(
            shard.block(of: local.lowerBound).offset == 0, "Blocks begin at a multiple of \(layout.blockTokens) tokens."
        )
        func number(_ position: Int) -> Int { min(shard.end(of: position), local.upperBound) - local.lowerBound }
        let firsts = firsts(visibility, positions, number: number)
        precondition(firsts?[0] ?? 0 >= 0, "Tokens that the first query sees are missing.")
        let sees = areOwn && number(positions.lowerBound + 1) < local.count
        return VisibleTokens(
            count: positions.count, keyTokens: local.count, areOwn: false, firsts: firsts,
            ends: sees ? positions.map { number($0 + 1) } : nil)
    }

    /// - Parameter number: of the first key token at or after a position.
    /// - Returns: nil when all query tokens see from key token 0 on: then the last does.
    private static func firsts(
        _ visibility: Visibility, _ positions: Range<Int>, number: (_ position: Int) -> Int
    ) -> [Int]? {
        guard let last = positions.last, number(visibility.first(seenFrom: last)) != 0 else { return nil }
        return positions.map { number(visibility.first(seenFrom: $0)) }
    }

    /// What a query token sees; the end is not before the first, where it sees nothing.
    package subscript(token: Int) -> Range<Int> {
        let end = areOwn ? token + 1 : ends?[token] ?? keyTokens
        return (firsts?[token] ?? 0)..<end
    }

    /// The most that one query token sees.
    var most: Int {
        guard let firsts else { return count > 0 ? keyTokens : 0 }
        return firsts.indices.reduce(0) { max($0, self[$1].count) }
    }
}
