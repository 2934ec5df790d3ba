// SPDX-License-Identifier: Apache-2.0

package import DCPCore

/// How attention is split into pieces that may run in any order, on any threads.
///
/// The split depends only on the shape of the entry's work. So a result has the same bits for any number of threads, in
/// whatever order they finish, and with whatever else is in its step. Pieces of few rows have a power of two of blocks,
/// and none has more than the one before it. If two entries begin with the same blocks, the pieces of one therefore lie
/// inside those of the other, whatever their lengths, and are computed together (`SharedRead`). Pieces are counted from
/// the block of the first token that their rows see: blocks before it are not read, and leaving them out changes no
/// bit.
package struct WorkSplit: Sendable {
    /// Query rows that share a KV head: some heads and some of the entry's tokens. They are one operand of the kernels,
    /// so each byte of K and V is read once for all of them.
    package struct Tile: Hashable, Sendable {
        package let kvHead: Int
        /// Query heads, as indices in the head group.
        package let heads: Range<Int>
        /// The entry's tokens, from 0.
        package let tokens: Range<Int>
        /// The key tokens that any of `tokens` sees; empty if they see none.
        package let seen: Range<Int>
        /// The key tokens that all of `tokens` see.
        package let shared: Range<Int>
        /// Indices into `pieces`, in key order; tiles of the same pieces have the same.
        package internal(set) var pieces: Range<Int>

        package var rows: Int { heads.count * tokens.count }
    }

    /// Consecutive tiles against some of the key tokens. Each piece of a decode step has all KV heads, because they are
    /// adjacent in a block: memory is read in the order of its addresses.
    package struct Piece: Hashable, Sendable {
        package let tiles: Range<Int>
        package let keys: Range<Int>
    }

    package private(set) var tiles: [Tile] = []
    package private(set) var pieces: [Piece] = []
    /// Whether the lengths of pieces, except the last, are powers of two of blocks.
    package private(set) var isNested = false

    /// Rows of one tile come from at most this many heads, so that many heads with many tokens are split both ways.
    package static let headsMax = 64
    /// Rows that the tiles of a piece have for a KV head: their running outputs stay in the second-level cache.
    package static let rowsMax = 256
    /// The fewest bytes of K and V of a piece: a thread reads them in about 30 us. With shorter pieces many sequences
    /// are a tenth slower, because of their states.
    package static let pieceByteCountMin = 1 << 20
    /// From this size on many threads share the work, and finish at about the same time only with shorter pieces.
    private static let shortPieceByteCountMin = 512 << 10
    private static let longByteCount = 64 << 20
    /// The most pieces: each has a state until the end, when one thread merges them.
    package static let piecesMax = 256
    /// This many are always allowed, however large their states are.
    private static let piecesOfAnySize = 32
    /// The most outputs in all states, if there are more pieces than that.
    private static let stateByteCountMax = 4 << 20
    /// A piece is this part of the remaining keys, down to the least size. Long pieces come first and short ones last,
    /// so up to 32 threads, each of which takes the next piece when it ends one, finish at about the same time.
    private static let piecesOfRest = 40
    /// The same if lengths are rounded down to a power of two.
    private static let piecesOfNestedRest = 28
    /// With up to this many rows for a KV head, another entry's rows fit into the same tile.
    private static let nestedRowsMax = 32

    /// - Parameters:
    ///   - heads: the query heads to compute, as indices in the head group; may be empty.
    ///   - visible: which key tokens the entry's query tokens see.
    ///   - layout: pieces begin and end with its blocks.
    ///   - rowsMax: the most rows of a tile.
    package init(
        partition: HeadPartition, heads: Range<Int>, visible: VisibleTokens, layout: PanelLayout, rowsMax: Int
    ) {
        guard !heads.isEmpty, visible.count > 0, visible.keyTokens > 0 else { return }
        let shared = partition.queryHeadsPerKVHead
        /// Tiles that share pieces.
        var bundles: [Range<Int>] = []
        let kvHeads =
            partition.kvHead(ofQueryHead: heads.lowerBound)...partition.kvHead(ofQueryHead: heads.upperBound - 1)
        tiles.reserveCapacity(kvHeads.count)
        for kvHead in kvHeads {
            let all = heads.clamped(to: kvHead * shared..<(kvHead + 1) * shared)
            let own = tiles.count
            Self.forEachChunk(of: all, max: min(Self.headsMax, rowsMax)) { some in
                Self.forEachChunk(of: 0..<visible.count, max: max(1, rowsMax / some.count)) { slice in
                    let first = visible[slice.lowerBound], last = visible[slice.upperBound - 1]
                    tiles.append(
                        Tile(
                            kvHead: kvHead, heads: some, tokens: slice, seen: first.lowerBound..<last.upperBound,
                            shared: last.lowerBound..<max(last.lowerBound, first.upperBound), pieces: 0..<0))
                }
            }
            Self.forEachChunk(of: own..<tiles.count, max: max(1, Self.rowsMax / rowsMax)) { bundles.append($0) }
        }
        if bundles.count == kvHeads.count, bundles.count == tiles.count { bundles = [0..<tiles.count] }

        let keys = bundles.map { Self.keys(of: tiles[$0], blockTokens: layout.blockTokens) }
        isNested = bundles.count == 1 && tiles.allSatisfy { $0.rows <= Self.nestedRowsMax }
        let cut = Cut(
            bundles: bundles.count, kvHeads: bundles.count == 1 ? kvHeads.count : 1, rows: heads.count * visible.count,
            keyTokens: keys.reduce(0) { max($0, $1.count) }, isNested: isNested, layout)
        for (bundle, keys) in zip(bundles, keys) {
            let first = pieces.count
            cut.forEachRange(of: keys) { pieces.append(Piece(tiles: bundle, keys: $0)) }
            for tile in bundle { tiles[tile].pieces = first..<pieces.count }
        }
    }

    /// How the keys of a bundle are split.
    private struct Cut {
        var blockTokens: Int
        /// Blocks of a piece.
        var least: Int
        var partOfRest: Int
        var isNested: Bool

        /// - Parameters:
        ///   - kvHeads: the KV heads of a bundle.
        ///   - rows: the rows of all bundles.
        ///   - keyTokens: the key tokens of the bundle that sees most.
        init(bundles: Int, kvHeads: Int, rows: Int, keyTokens: Int, isNested: Bool, _ layout: PanelLayout) {
            let stateByteCount = max(rows * layout.valueDim * 4 / bundles, 1)
            let piecesMax = min(
                max(WorkSplit.stateByteCountMax / stateByteCount, WorkSplit.piecesOfAnySize), WorkSplit.piecesMax)
            blockTokens = layout.blockTokens
            let blockByteCount = kvHeads * layout.headByteCount
            // By blocks: the bytes of as many tokens as a request may state do not fit 64 bits.
            let longBlocks = WorkSplit.blocks(WorkSplit.longByteCount, of: blockByteCount)
            let isLong = WorkSplit.blocks(keyTokens, of: blockTokens) >= longBlocks
            least = max(
                WorkSplit.blocks(
                    isLong ? WorkSplit.shortPieceByteCountMin : WorkSplit.pieceByteCountMin, of: blockByteCount),
                WorkSplit.blocks(keyTokens, of: layout.blockTokens * max(1, piecesMax / bundles)))
            if isNested { least = least.powerOfTwo(rounded: .up) }
            partOfRest = isNested ? WorkSplit.piecesOfNestedRest : max(1, WorkSplit.piecesOfRest / bundles)
            self.isNested = isNested
        }

        func forEachRange(of keys: Range<Int>, _ body: (Range<Int>) -> Void) {
            var start = keys.lowerBound
            while start < keys.upperBound {
                let part = WorkSplit.blocks(keys.upperBound - start, of: blockTokens * partOfRest)
                let blocks = max(least, isNested ? part.powerOfTwo(rounded: .down) : part)
                let end = min(start + blocks * blockTokens, keys.upperBound)
                body(start..<end)
                start = end
            }
        }
    }

    /// The most bytes that the states of all pieces need, known before the split: outputs, maxima and sums of each row
    /// and piece.
    /// - Parameters:
    ///   - heads: how many query heads are computed.
    ///   - tokens: how many query tokens.
    ///   - keyTokens: how many key tokens any of them sees.
    ///   - kernels: the split's tiles have at most as many rows as they take.
    package static func stateByteCountMax(
        heads: Int, tokens: Int, keyTokens: Int, partition: HeadPartition, layout: PanelLayout,
        kernels: AttentionKernels = .chosen
    ) -> Int {
        let rows = heads * tokens
        guard rows > 0, keyTokens > 0 else { return 0 }
        let shared = partition.queryHeadsPerKVHead
        // Up to a tile for each KV head is one bundle. Many rows are several, at least as many as can hold them.
        let isOneTile = shared <= min(headsMax, kernels.rowsMax) && tokens <= kernels.rowsMax / shared
        let bundles = isOneTile ? 1 : blocks(rows, of: rowsMax)
        let kvHeads = bundles == 1 ? min(heads, partition.kvHeads) : 1
        let isNested = bundles == 1 && shared * tokens <= nestedRowsMax
        let cut = Cut(
            bundles: bundles, kvHeads: kvHeads, rows: rows, keyTokens: keyTokens, isNested: isNested, layout)
        let pieces = blocks(blocks(keyTokens, of: layout.blockTokens) + 1, of: cut.least)
        return pieces * rows * (layout.valueDim + 2) * 4
    }

    /// How many of a size hold this many.
    private static func blocks(_ count: Int, of size: Int) -> Int { (count + size - 1) / size }

    /// The key tokens that some tiles see, from the start of the first block. Empty if they see none.
    private static func keys(of tiles: ArraySlice<Tile>, blockTokens: Int) -> Range<Int> {
        var (first, end) = (Int.max, 0)
        for tile in tiles where !tile.seen.isEmpty {
            first = min(first, tile.seen.lowerBound)
            end = max(end, tile.seen.upperBound)
        }
        return end == 0 ? 0..<0 : first / blockTokens * blockTokens..<end
    }

    /// Called once for each entry of a step, of which a lazy collection of ranges took a quarter of the split's time.
    private static func forEachChunk(of range: Range<Int>, max count: Int, _ body: (Range<Int>) -> Void) {
        var start = range.lowerBound
        while start < range.upperBound {
            let end = Swift.min(start + count, range.upperBound)
            body(start..<end)
            start = end
        }
    }
}

extension Int {
    /// The nearest power of two that is not above, or not below, a positive number.
    fileprivate func powerOfTwo(rounded rule: FloatingPointRoundingRule) -> Int {
        let below = 1 << (Int.bitWidth - 1 - leadingZeroBitCount)
        return rule == .up && below < self ? below << 1 : below
    }
}
