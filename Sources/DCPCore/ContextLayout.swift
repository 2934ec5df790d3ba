// SPDX-License-Identifier: Apache-2.0

/// The context rank that owns a token, and the token's place in its shard: the only implementation of the ownership
/// rule.
///
/// With C context ranks and interleave I, tokens are dealt in runs of I: `owner(t) = (t / I) % C`. Positions are always
/// global; a *local index* counts the tokens of one shard, in position order. Blocks are `blockTokens` consecutive local
/// tokens. `blockTokens` is a multiple of I: only then do the blocks of all shards cover the same range of positions
/// (a rule of correctness, not of style: vLLM checks it as `block_size % interleave == 0`).
///
/// The formulas are those of vLLM's `get_dcp_local_seq_lens` (vllm #50391).
public struct ContextLayout: Hashable, Sendable {
    /// C, the number of ranks over which a sequence's tokens are distributed: the decode context parallel size.
    public let contextRanks: Int
    /// I, the number of consecutive positions that one rank owns.
    public let interleave: Int
    /// The local tokens in one block.
    public let blockTokens: Int

    public static let contextRanksMax = 1024
    public static let blockTokensMax = 4096
    /// Panels hold whole SIMD vectors of tokens: 16 is the widest, Float32 in AVX-512.
    public static let blockTokensMultiple = 16

    /// - Throws: `.invalidConfiguration`, with the value, the limit and the remedy.
    public init(contextRanks: Int, interleave: Int, blockTokens: Int) throws(ServiceError) {
        guard (1...Self.contextRanksMax).contains(contextRanks) else {
            throw ServiceError(
                .invalidConfiguration,
                "\(contextRanks) context ranks are outside 1...\(Self.contextRanksMax); change the number of ranks.")
        }
        guard (1...Self.blockTokensMax).contains(blockTokens), blockTokens % Self.blockTokensMultiple == 0 else {
            throw ServiceError(
                .invalidConfiguration,
                "A block of \(blockTokens) tokens is not a multiple of \(Self.blockTokensMultiple) in "
                    + "\(Self.blockTokensMultiple)...\(Self.blockTokensMax); set --block-tokens to 64.")
        }
        guard interleave >= 1, blockTokens % interleave == 0 else {
            throw ServiceError(
                .invalidConfiguration,
                "A block of \(blockTokens) tokens is not a multiple of the interleave \(interleave), so a block would "
                    + "not hold the same positions on every rank; choose an --interleave that divides --block-tokens.")
        }
        self.contextRanks = contextRanks
        self.interleave = interleave
        self.blockTokens = blockTokens
    }

    /// The context rank that owns the token at a global position. It depends only on the position, never on a counter.
    public func owner(ofPosition position: Int) -> Int {
        precondition(position >= 0)
        return (position / interleave) % contextRanks
    }

    /// The number of the first `length` tokens that a context rank owns.
    public func localLength(ofRank rank: Int, length: Int) -> Int {
        precondition(rank >= 0 && rank < contextRanks && length >= 0)
        let period = contextRanks * interleave
        let partial = min(max(length % period - rank * interleave, 0), interleave)
        return (length / period) * interleave + partial
    }

    /// The local index of a token on the rank that owns it.
    public func localIndex(ofPosition position: Int) -> Int {
        precondition(position >= 0)
        return position / (contextRanks * interleave) * interleave + position % interleave
    }

    /// The global position of a rank's local token; the inverse of `localIndex(ofPosition:)` on that rank.
    public func position(ofLocalIndex index: Int, rank: Int) -> Int {
        precondition(rank >= 0 && rank < contextRanks && index >= 0)
        return (index / interleave) * contextRanks * interleave + rank * interleave + index % interleave
    }

    /// The positions of consecutive local tokens of a rank, relative to `origin`, which is at or before the first.
    public func offsets(ofLocalIndices range: Range<Int>, rank: Int, from origin: Int) -> [UInt32] {
        guard !range.isEmpty else { return [] }
        let first = position(ofLocalIndex: range.lowerBound, rank: rank)
        precondition(first >= origin)
        return [UInt32](unsafeUninitializedCapacity: range.count) { offsets, count in
            var offset = UInt32(first - origin)
            var left = interleave - range.lowerBound % interleave
            for index in 0..<range.count {
                offsets.initializeElement(at: index, to: offset)
                offset += 1
                left -= 1
                guard left == 0 else { continue }
                offset += UInt32((contextRanks - 1) * interleave)
                left = interleave
            }
            count = range.count
        }
    }

    /// The block that holds a local token, and the token's place in it.
    public func block(ofLocalIndex index: Int) -> (block: Int, offset: Int) {
        precondition(index >= 0)
        return (index / blockTokens, index % blockTokens)
    }

    /// The local indices that a rank gains when a sequence grows from `start` to `end` tokens.
    public func localRange(ofRank rank: Int, from start: Int, to end: Int) -> Range<Int> {
        precondition(start <= end)
        return localLength(ofRank: rank, length: start)..<localLength(ofRank: rank, length: end)
    }
}
