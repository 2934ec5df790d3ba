// SPDX-License-Identifier: Apache-2.0

public import DCPCore

/// Which key tokens each query token of an entry sees: a range of the tokens in the attended blocks.
///
/// Ranges are derived from global positions, and only here. A window begins at a position, and each rank looks up the
/// first of its own tokens at or after it. Another kind of visibility is another case of `Visibility`; nothing changes
/// here.
///
/// Neither end of a range decreases from one query token to the next; kernels and `WorkSplit` rely on this.
public struct VisibleTokens: Hashable, Sendable {
    /// Query tokens.
    public let count: Int
    /// Key tokens in all blocks.
    public let keyTokens: Int
    /// Whether key token i is query token i, and the last that it sees. Otherwise each query token sees up to the last
    /// key.
    let areOwn: Bool
    /// The first key token that each query token sees; nil if all see the first one, which needs no lookup.
    private let firsts: [Int]?
    /// The end of the range of each query token; nil if all ranges end with the last key token, or with their own.
    private let ends: [Int]?

    private init(count: Int, keyTokens: Int, areOwn: Bool, firsts: [Int]?, ends: [Int]? = nil) {
        precondition(count >= 0 && keyTokens >= 0)
        self.count = count
        self.keyTokens = keyTokens
        self.areOwn = areOwn
        self.firsts = firsts
        self.ends = ends
    }

    /// Every query token sees every key token.
    public static func all(count: Int, of keyTokens: Int) -> VisibleTokens {
        VisibleTokens(count: count, keyTokens: keyTokens, areOwn: false, firsts: nil)
    }

    /// For the new tokens of an entry: each sees itself and those before it that `visibility` allows.
    /// - Parameter positions: the entry's.
    public static func new(_ visibility: Visibility, at positions: Range<Int>) -> VisibleTokens {
        VisibleTokens(
            count: positions.count, keyTokens: positions.count, areOwn: true,
            firsts: firsts(visibility, positions) { max($0 - positions.lowerBound, 0) })
    }

    /// For a rank's shard of an entry's context.
    /// - Parameters:
    ///   - positions: the entry's.
    ///   - areOwn: whether the shard includes the query tokens, so that each sees keys up to its own; otherwise all keys
    ///     precede `positions`.
    ///   - local: the tokens of the shard that are in the blocks. The first one begins a block and is not after any
    ///     visible token; the end is the shard's length.
    public static func context(
        _ visibility: Visibility, seenFrom positions: Range<Int>, areOwn: Bool = false, of layout: ContextLayout,
        rank: Int, local: Range<LocalIndex>
    ) -> VisibleTokens {
        let shard = Shard(layout, contextRank: rank)
        precondition(
            shard.block(of: local.lowerBound).offset == 0, "Blocks begin at a multiple of \(layout.blockTokens) tokens."
        )
        func number(_ position: Int) -> Int {
            min(shard.end(of: Position(position)), local.upperBound) - local.lowerBound
        }
        let firsts = firsts(visibility, positions, number: number)
        precondition(firsts?[0] ?? 0 >= 0, "Tokens that the first query sees are missing.")
        let sees = areOwn && number(positions.lowerBound + 1) < local.count
        return VisibleTokens(
            count: positions.count, keyTokens: local.count, areOwn: false, firsts: firsts,
            ends: sees ? positions.map { number($0 + 1) } : nil)
    }

    /// - Parameter number: gives the index of the first key token at or after a position.
    /// - Returns: nil if all query tokens see key token 0, which is so if the last one does.
    private static func firsts(
        _ visibility: Visibility, _ positions: Range<Int>, number: (_ position: Int) -> Int
    ) -> [Int]? {
        guard let last = positions.last, number(visibility.first(seenFrom: last)) != 0 else { return nil }
        return positions.map { number(visibility.first(seenFrom: $0)) }
    }

    /// The range of a query token; empty if it sees nothing.
    package subscript(token: Int) -> Range<Int> {
        let end = areOwn ? token + 1 : ends?[token] ?? keyTokens
        return (firsts?[token] ?? 0)..<end
    }

    /// The largest number of key tokens that a query token sees.
    var most: Int {
        guard let firsts else { return count > 0 ? keyTokens : 0 }
        return firsts.indices.reduce(0) { max($0, self[$1].count) }
    }
}
