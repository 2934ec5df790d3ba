// SPDX-License-Identifier: Apache-2.0

/// One context rank's part of every sequence: which positions it owns, and where their tokens are in its shard and in its
/// blocks. `ContextLayout` has the rule; this has its result with types, so that a position is never taken for a
/// local index.
public struct Shard: Hashable, Sendable {
    public let layout: ContextLayout
    public let contextRank: Int

    public init(_ layout: ContextLayout, contextRank: Int) {
        precondition(contextRank >= 0 && contextRank < layout.contextRanks)
        self.layout = layout
        self.contextRank = contextRank
    }

    public var blockTokens: Int { layout.blockTokens }

    /// Where the shard of a sequence of `length` tokens ends.
    public func end(of length: Position) -> LocalIndex {
        LocalIndex(layout.localLength(ofRank: contextRank, length: length.value))
    }

    /// The tokens at some positions that the rank owns.
    public func range(of positions: Range<Position>) -> Range<LocalIndex> {
        end(of: positions.lowerBound)..<end(of: positions.upperBound)
    }

    /// How many of the first `length` tokens the rank owns.
    public func count(of length: Position) -> Int { end(of: length).value }

    /// The position of a token of the shard.
    public func position(of index: LocalIndex) -> Position {
        Position(layout.position(ofLocalIndex: index.value, rank: contextRank))
    }

    /// The positions of consecutive tokens of the shard, relative to `origin`, which is at or before the first, and may be
    /// before the sequence.
    public func offsets(of tokens: Range<LocalIndex>, from origin: Position) -> [UInt32] {
        layout.offsets(
            ofLocalIndices: tokens.lowerBound.value..<tokens.upperBound.value, rank: contextRank, from: origin.value)
    }

    // MARK: Blocks

    /// The block that holds a token, and the token's place in it.
    public func block(of index: LocalIndex) -> (block: Int, offset: Int) { layout.block(ofLocalIndex: index.value) }

    /// The first token of a block.
    public func start(ofBlock block: Int) -> LocalIndex { LocalIndex(block * layout.blockTokens) }

    /// The blocks that are full when a sequence has `length` tokens.
    public func fullBlocks(of length: Position) -> Int { block(of: end(of: length)).block }

    /// The blocks that tokens are in; of no tokens none, where they would be.
    public func blocks(of tokens: Range<LocalIndex>) -> Range<Int> {
        let first = block(of: tokens.lowerBound).block
        return tokens.isEmpty ? first..<first : first..<block(of: tokens.upperBound + (blockTokens - 1)).block
    }
}
