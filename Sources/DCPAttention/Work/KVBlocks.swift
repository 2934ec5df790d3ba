// SPDX-License-Identifier: Apache-2.0

public import DCPCore

/// Keys and values of consecutive tokens of one sequence and layer, in panels: mapped pages, an open block, or a step's
/// new tokens.
///
/// `@unchecked Sendable`: the memory is only read, and the caller keeps it, and its first `tokens` tokens unchanged,
/// until the results of all work over it have been taken.
public struct KVBlocks: @unchecked Sendable {
    public let layout: PanelLayout
    /// Payloads in token order, each `layout.payloadByteCount` bytes and 64-byte aligned. All but the last are full.
    public let blocks: [UnsafeRawPointer]
    /// Tokens in all blocks. Anything beyond them in the last block is never used, NaN included.
    public let tokens: Int
    /// Whether blocks are in a mapped file, so that their pages may have to be read from disk.
    public let isMapped: Bool

    public init(layout: PanelLayout, blocks: [UnsafeRawPointer], tokens: Int, isMapped: Bool = false) {
        precondition(tokens >= 0)
        precondition(
            blocks.count == (tokens + layout.blockTokens - 1) / layout.blockTokens,
            "\(blocks.count) blocks cannot hold exactly \(tokens) tokens.")
        self.layout = layout
        self.blocks = blocks
        self.tokens = tokens
        self.isMapped = isMapped
    }

    public static func empty(layout: PanelLayout) -> KVBlocks { KVBlocks(layout: layout, blocks: [], tokens: 0) }

    /// The parts of blocks that a range of tokens covers, in order.
    func segments(of range: Range<Int>) -> [Segment] {
        var found: [Segment] = []
        var token = range.lowerBound
        while token < range.upperBound {
            let (block, first) = token.quotientAndRemainder(dividingBy: layout.blockTokens)
            let count = min(range.upperBound - token, layout.blockTokens - first)
            found.append(Segment(payload: blocks[block], first: first, count: count))
            token += count
        }
        return found
    }

    struct Segment {
        let payload: UnsafeRawPointer
        /// The index in the block of its first token.
        let first: Int
        let count: Int
    }
}

/// Panels of a step's new tokens, for the causal part. Owns their memory; `blocks` is valid as long as this object.
///
/// Keys and values are rounded to the cache format as the cache rounds them, so a token counts the same in its own step
/// as in all later ones.
///
/// `@unchecked Sendable`: one thread writes each block, and threads that synchronise with it read the block.
public final class NewTokenPanels: @unchecked Sendable {
    public let blocks: KVBlocks
    private let memory: UnsafeMutableRawPointer

    /// - Parameters:
    ///   - layout: the cache's layout. Few tokens take smaller blocks than its.
    ///   - rows: the keys and values of the whole step, for all KV heads of the layout.
    ///   - tokens: the tokens of `rows` that belong to this entry.
    /// - Throws: `.invalidRequest` when a value is NaN, infinite, or beyond the cache format's range.
    public convenience init(layout: PanelLayout, rows: KeyValueRows, tokens: Range<Int>) throws(ServiceError) {
        self.init(layout: layout, tokens: tokens.count)
        try fill(0..<blocks.blocks.count, rows, tokens: tokens)
    }

    /// Space for some tokens, to be filled before it is read.
    package init(layout: PanelLayout, tokens count: Int) {
        let lanes = ContextLayout.blockTokensMultiple
        let layout = PanelLayout(
            format: layout.format, kvHeads: layout.kvHeads, keyDim: layout.keyDim, values: layout.values,
            blockTokens: min(layout.blockTokens, max(1, (count + lanes - 1) / lanes) * lanes))
        let blockCount = (count + layout.blockTokens - 1) / layout.blockTokens
        // A payload is a multiple of 64 bytes: its tokens are a multiple of 16, its dimensions even.
        let memory = UnsafeMutableRawPointer.allocate(
            byteCount: max(blockCount * layout.payloadByteCount, 64), alignment: 64)
        self.memory = memory
        blocks = KVBlocks(
            layout: layout, blocks: (0..<blockCount).map { UnsafeRawPointer(memory) + $0 * layout.payloadByteCount },
            tokens: count)
    }

    /// Fills some of the blocks; parameters and errors are those of `init`.
    package func fill(_ some: Range<Int>, _ rows: KeyValueRows, tokens: Range<Int>) throws(ServiceError) {
        precondition(tokens.lowerBound >= 0 && tokens.upperBound <= rows.tokens && tokens.count == blocks.tokens)
        let layout = blocks.layout
        let sources = Array(UInt32(tokens.lowerBound)..<UInt32(tokens.upperBound))
        for block in some {
            let first = block * layout.blockTokens
            let end = min(first + layout.blockTokens, tokens.count)
            let payload = memory + block * layout.payloadByteCount
            let isFinite = sources.withUnsafeBufferPointer {
                layout.write(rows, rowTokens: UnsafeBufferPointer(rebasing: $0[first..<end]), into: payload, at: 0)
            }
            guard isFinite else { throw Self.notFinite(layout.format) }
        }
    }

    static func notFinite(_ format: CacheFormat) -> ServiceError {
        ServiceError(
            .invalidRequest,
            "A new key or value is NaN, infinite or too large for a KV cache of \(format.name); "
                + "correct the model's output or choose a cache format with a wider range.")
    }

    deinit { memory.deallocate() }
}
