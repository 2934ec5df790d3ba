internal import CAttentionKernels
internal import DCPCore

/// A piece through the kernels: block after block, in each the KV heads in the order of their addresses.
extension AttentionWork {
    /// - Parameters:
    ///   - keys: some of the piece's, from the start of a block; up to its end, or to a block's.
    ///   - carried: of the piece's tiles.
    func attend(_ keys: Range<Int>, ofPiece index: Int, _ carried: CarriedStates?) {
        let piece = split.pieces[index]
        withUnsafeTemporaryAllocation(of: KernelTile.self, capacity: piece.tiles.count) { tiles in
            let rowsMax = Int(dcp_attention_rows_max)
            withUnsafeTemporaryAllocation(of: Int32.self, capacity: 2 * rowsMax) { memory in
                guard let memory = memory.baseAddress else { return }
                for (place, tile) in piece.tiles.enumerated() {
                    tiles.initializeElement(at: place, to: kernelTile(tile, piece: index))
                }
                attend(keys, of: piece, tiles, RowRanges(memory, rows: rowsMax), carried)
            }
        }
    }

    /// A tile as the loop over blocks needs it: that loop runs every microsecond.
    private struct KernelTile {
        var rows: dcp_attention_rows
        /// Of its KV head's panels, from the start of a block.
        var keyOffset: Int
        var valueOffset: Int
        /// Tiles that share a KV head find it in a cache; the first of them prefetches what comes next, so many bytes later.
        var prefetches: Bool
        /// As kernels number them.
        var aheadLevel: Int32
        var aheadByteCount: Int
        var headByteCount: Int
        /// Key tokens that all rows see.
        var shared: Range<Int>
        var index: Int
    }

    /// Tokens that go through the kernels at once: a block, or, where values have to be made of keys, no more of it than lie
    /// in a cache with them.
    private var stepTokens: Int {
        let layout = blocks.layout
        return layout.ownValueDim > 0 ? layout.blockTokens : min(layout.blockTokens, Self.madeTokens)
    }
    /// A group of the kernels: groups then lie where they lie in a block.
    private static var madeTokens: Int { 64 }

    private func attend(
        _ keyTokens: Range<Int>, of piece: WorkSplit.Piece, _ tiles: UnsafeMutableBufferPointer<KernelTile>,
        _ ranges: RowRanges, _ carried: CarriedStates?
    ) {
        let layout = blocks.layout, stepTokens = stepTokens
        let format = Int32(layout.format.rawValue)
        // K and V of the piece's KV heads lie beside each other in a block.
        let read = tiles[0].keyOffset..<tiles[tiles.count - 1].keyOffset + layout.headByteCount
        var made = layout.ownValueDim > 0 ? nil : MadeValues(layout, tokens: stepTokens, kernels)
        var token = keyTokens.lowerBound
        while token < keyTokens.upperBound {
            let (block, first) = token.quotientAndRemainder(dividingBy: layout.blockTokens)
            let payload = blocks.blocks[block] + layout.keyTokenOffset(first)
            let next = token + min(stepTokens, layout.blockTokens - first)
            let following =
                next < piece.keys.upperBound && stepTokens == layout.blockTokens ? blocks.blocks[block + 1] : nil
            let tokens = min(next, piece.keys.upperBound) - token
            if let carried, carried.count(tokens) {
                for place in tiles.indices { carried.carry(&tiles[place].rows, tile: place) }
            }
            for place in tiles.indices {
                let tile = UnsafePointer(tiles.baseAddress! + place)
                let isShared =
                    tile.pointee.shared.lowerBound <= token && token + tokens <= tile.pointee.shared.upperBound
                guard
                    isShared
                        || setVisible(ranges, of: split.tiles[tile.pointee.index], in: token..<token + tokens)
                else { continue }
                let visible = isShared ? RowRanges.all(tokens) : ranges.ranges
                let keys = payload + tile.pointee.keyOffset
                let values =
                    made?.values(of: keys, tokens: min(stepTokens, layout.blockTokens - first))
                    ?? payload + tile.pointee.valueOffset
                let ahead =
                    tile.pointee.prefetches
                    ? Self.ahead(of: tile.pointee, payload, following: following, read: read) : dcp_ahead()
                dcp_attend_block(kernels.table, format, &tiles[place].rows, keys, values, visible, ahead)
            }
            token = next
        }
        guard let carried, keyTokens.upperBound == piece.keys.upperBound else { return }
        for place in tiles.indices { carried.settle(&tiles[place].rows, tile: place) }
    }

    /// So many bytes later in the part of each block that is read: here, over its end, or all beyond it.
    private static func ahead(
        of tile: KernelTile, _ payload: UnsafeRawPointer, following: UnsafeRawPointer?, read: Range<Int>
    ) -> dcp_ahead {
        var ahead = dcp_ahead()
        ahead.level = tile.aheadLevel
        let from = tile.keyOffset + tile.aheadByteCount, to = from + tile.headByteCount
        if from < read.upperBound {
            ahead.at = chars(payload + from)
            ahead.end = chars(payload + min(to, read.upperBound))
            if to > read.upperBound, let following {
                ahead.then = chars(following + read.lowerBound)
                ahead.then_end = chars(following + min(to - read.count, read.upperBound))
            }
        } else if let following, from - read.count < read.upperBound {
            ahead.at = chars(following + (from - read.count))
            ahead.end = chars(following + min(to - read.count, read.upperBound))
        }
        return ahead
    }

    private static func chars(_ address: UnsafeRawPointer) -> UnsafePointer<CChar> {
        address.assumingMemoryBound(to: CChar.self)
    }

    private func kernelTile(_ index: Int, piece: Int) -> KernelTile {
        let kvHead = split.tiles[index].kvHead
        let first = split.pieces[piece].tiles.lowerBound
        let rows = kernelRows(ofTile: index, piece: piece)
        let layout = blocks.layout
        let isFirst = index == first || split.tiles[index - 1].kvHead != kvHead
        let heads = split.tiles[split.pieces[piece].tiles.upperBound - 1].kvHead - split.tiles[first].kvHead + 1
        let ahead = isFirst ? prefetch.ahead(rows, kernels, layout, blockByteCount: heads * layout.headByteCount) : nil
        return KernelTile(
            rows: rows, keyOffset: layout.keyPanelOffset(ofHead: kvHead),
            valueOffset: layout.valuePanelOffset(ofHead: kvHead), prefetches: ahead != nil,
            aheadLevel: ahead?.level ?? 0,
            aheadByteCount: layout.ownValueDim > 0 ? ahead?.byteCount ?? 0 : layout.headByteCount,
            headByteCount: layout.headByteCount, shared: split.tiles[index].shared, index: index)
    }

    func kernelRows(ofTile index: Int, piece: Int) -> dcp_attention_rows {
        let tile = split.tiles[index]
        let state = state(ofTile: index, piece: piece)
        let terms = tileQueries.terms(ofTile: index)
        return dcp_attention_rows(
            rows: Int32(tile.rows), key_dim: Int32(attention.keyDim), value_dim: Int32(attention.valueDim),
            block_tokens: Int32(blocks.layout.blockTokens), value_tokens: Int32(stepTokens), terms: terms?.count ?? 0,
            scale: attention.scale, soft_cap: attention.softcap ?? 0, light_share: lightShare,
            queries: tileQueries.floats(ofTile: index), query_terms: terms?.0, maximum: state.maximum, sum: state.sum,
            output: state.output)
    }
}
