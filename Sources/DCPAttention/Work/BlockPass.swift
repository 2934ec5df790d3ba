// SPDX-License-Identifier: Apache-2.0

internal import CAttentionKernels
internal import DCPCore

/// Takes tiles of query rows through the kernels block by block, and in each block by KV head in the order of
/// addresses.
struct BlockPass {
    /// A tile as the loop over blocks needs it; an iteration of that loop takes about a microsecond.
    struct Tile {
        var rows: dcp_attention_rows
        /// Offset of its KV head's panels from the start of a block.
        fileprivate var keyOffset: Int
        fileprivate var valueOffset: Int
        /// The distance in bytes to what this tile prefetches: only the first tile of a KV head does, the others find
        /// it in a cache.
        fileprivate var prefetches: Bool
        /// The level as kernels number it.
        fileprivate var aheadLevel: Int32
        fileprivate var aheadByteCount: Int
        /// The key tokens that all rows see.
        fileprivate var shared: Range<Int>
    }

    private let blocks: KVBlocks
    private let kernels: AttentionKernels
    private let end: Int

    /// - Parameter end: of the piece; nothing beyond it is prefetched.
    init(_ blocks: KVBlocks, _ kernels: AttentionKernels, end: Int) {
        self.blocks = blocks
        self.kernels = kernels
        self.end = end
    }

    /// - Parameters:
    ///   - kvHeads: the KV heads of the piece.
    ///   - isFirst: whether it is the first of the tiles that share the KV head.
    ///   - shared: the key tokens that all rows see.
    func tile(
        _ rows: dcp_attention_rows, kvHead: Int, of kvHeads: Int, isFirst: Bool, shared: Range<Int>,
        _ prefetch: PrefetchTable
    ) -> Tile {
        let layout = blocks.layout
        let ahead =
            isFirst ? prefetch.ahead(rows, kernels, layout, blockByteCount: kvHeads * layout.headByteCount) : nil
        return Tile(
            rows: rows, keyOffset: layout.keyPanelOffset(ofHead: kvHead),
            valueOffset: layout.valuePanelOffset(ofHead: kvHead), prefetches: ahead != nil,
            aheadLevel: ahead?.level ?? 0,
            aheadByteCount: layout.ownValueDim > 0 ? ahead?.byteCount ?? 0 : layout.headByteCount, shared: shared)
    }

    /// Tokens that go through the kernels at once: a block, or, if values are made of keys, as much of it as fits into
    /// a cache with them.
    static func stepTokens(of layout: PanelLayout) -> Int {
        layout.ownValueDim > 0 ? layout.blockTokens : min(layout.blockTokens, madeTokens)
    }
    /// A group of the kernels, so that groups begin where they begin in a block.
    private static var madeTokens: Int { 64 }

    /// - Parameters:
    ///   - keyTokens: begin with a block, and end with the piece or a block.
    ///   - tiles: in the order of their KV heads.
    ///   - willTake: called before the tiles take that many tokens.
    ///   - setVisible: sets which of some key tokens each row of a tile sees; returns whether any row sees one.
    func run(
        _ keyTokens: Range<Int>, _ tiles: UnsafeMutableBufferPointer<Tile>, willTake: (_ tokens: Int) -> Void,
        setVisible: (_ ranges: RowRanges, _ tile: Int, _ keys: Range<Int>) -> Bool
    ) {
        let rowsMax = Int(dcp_attention_rows_max)
        withUnsafeTemporaryAllocation(of: Int32.self, capacity: 2 * rowsMax) { memory in
            guard let memory = memory.baseAddress else { return }
            run(keyTokens, tiles, RowRanges(memory, rows: rowsMax), willTake, setVisible)
        }
    }

    private func run(
        _ keyTokens: Range<Int>, _ tiles: UnsafeMutableBufferPointer<Tile>, _ ranges: RowRanges,
        _ willTake: (_ tokens: Int) -> Void,
        _ setVisible: (_ ranges: RowRanges, _ tile: Int, _ keys: Range<Int>) -> Bool
    ) {
        let layout = blocks.layout, stepTokens = Self.stepTokens(of: layout)
        let format = Int32(layout.format.rawValue)
        // K and V of the piece's KV heads are adjacent in a block.
        let read = tiles[0].keyOffset..<tiles[tiles.count - 1].keyOffset + layout.headByteCount
        var made = layout.ownValueDim > 0 ? nil : MadeValues(layout, tokens: stepTokens, kernels)
        var token = keyTokens.lowerBound
        while token < keyTokens.upperBound {
            let (block, first) = token.quotientAndRemainder(dividingBy: layout.blockTokens)
            let payload = blocks.blocks[block] + layout.keyTokenOffset(first)
            let next = token + min(stepTokens, layout.blockTokens - first)
            let following = next < end && stepTokens == layout.blockTokens ? blocks.blocks[block + 1] : nil
            let tokens = min(next, end) - token
            willTake(tokens)
            for place in tiles.indices {
                let tile = UnsafePointer(tiles.baseAddress! + place)
                let isShared =
                    tile.pointee.shared.lowerBound <= token && token + tokens <= tile.pointee.shared.upperBound
                guard isShared || setVisible(ranges, place, token..<token + tokens) else { continue }
                let visible = isShared ? RowRanges.all(tokens) : ranges.ranges
                let keys = payload + tile.pointee.keyOffset
                let values =
                    made?.values(of: keys, tokens: min(stepTokens, layout.blockTokens - first))
                    ?? payload + tile.pointee.valueOffset
                let ahead =
                    tile.pointee.prefetches
                    ? ahead(of: tile.pointee, payload, following: following, read: read) : dcp_ahead()
                dcp_attend_block(kernels.table, format, &tiles[place].rows, keys, values, visible, ahead)
            }
            token = next
        }
    }

    /// The address that many bytes further in what is read of each block: in this block, across its end, or beyond it.
    private func ahead(
        of tile: Tile, _ payload: UnsafeRawPointer, following: UnsafeRawPointer?, read: Range<Int>
    ) -> dcp_ahead {
        var ahead = dcp_ahead()
        ahead.level = tile.aheadLevel
        let from = tile.keyOffset + tile.aheadByteCount, to = from + blocks.layout.headByteCount
        if from < read.upperBound {
            ahead.at = Self.chars(payload + from)
            ahead.end = Self.chars(payload + min(to, read.upperBound))
            if to > read.upperBound, let following {
                ahead.then = Self.chars(following + read.lowerBound)
                ahead.then_end = Self.chars(following + min(to - read.count, read.upperBound))
            }
        } else if let following, from - read.count < read.upperBound {
            ahead.at = Self.chars(following + (from - read.count))
            ahead.end = Self.chars(following + min(to - read.count, read.upperBound))
        }
        return ahead
    }

    private static func chars(_ address: UnsafeRawPointer) -> UnsafePointer<CChar> {
        address.assumingMemoryBound(to: CChar.self)
    }
}
