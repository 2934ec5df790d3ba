internal import CAttentionKernels
internal import DCPCore

/// A piece through the kernels: block after block, in each the KV heads in the order of their addresses.
extension AttentionWork {
    func attend(piece index: Int) {
        let piece = split.pieces[index]
        withUnsafeTemporaryAllocation(of: KernelTile.self, capacity: piece.tiles.count) { tiles in
            let rowsMax = Int(dcp_attention_rows_max)
            withUnsafeTemporaryAllocation(of: Int32.self, capacity: 2 * rowsMax) { memory in
                guard let memory = memory.baseAddress else { return }
                for (place, tile) in piece.tiles.enumerated() {
                    tiles.initializeElement(at: place, to: kernelTile(tile, piece: index))
                }
                attend(piece, tiles, RowRanges(memory, rows: rowsMax))
            }
        }
    }

    /// A tile as the loop over blocks needs it: that loop runs every microsecond.
    private struct KernelTile {
        var rows: dcp_attention_rows
        /// Of its KV head's panels, from the start of a block.
        var keyOffset: Int
        var valueOffset: Int
        /// Tiles that share a KV head find it in a cache; the first of them asks for what comes next.
        var asksAhead: Bool
        /// How many bytes later.
        var aheadByteCount: Int
        /// Key tokens that all rows see.
        var shared: Range<Int>
        var index: Int
    }

    private func attend(
        _ piece: WorkSplit.Piece, _ tiles: UnsafeMutableBufferPointer<KernelTile>,
        _ ranges: RowRanges
    ) {
        let blockTokens = blocks.layout.blockTokens, headByteCount = blocks.layout.headByteCount
        let dataType = Int32(blocks.layout.dataType.rawValue)
        // K and V of the piece's KV heads lie beside each other in a block.
        let start = tiles[0].keyOffset, end = tiles[tiles.count - 1].keyOffset + headByteCount
        /// How many of a block's first tokens all rows see, by `ranges`; 0 when they differ.
        var sharedTokens = 0
        let carried = carriedStates(of: piece.tiles)
        var token = piece.keys.lowerBound
        while token < piece.keys.upperBound {
            let payload = blocks.blocks[token / blockTokens]
            let next = token + blockTokens
            let following = next < piece.keys.upperBound ? blocks.blocks[next / blockTokens] : nil
            let tokens = min(next, piece.keys.upperBound) - token
            if let carried, carried.count(tokens) {
                for place in tiles.indices { carried.carry(&tiles[place].rows, tile: place) }
            }
            for place in tiles.indices {
                let tile = UnsafePointer(tiles.baseAddress! + place)
                if tile.pointee.shared.lowerBound <= token, token + tokens <= tile.pointee.shared.upperBound {
                    if sharedTokens != tokens {
                        ranges.first.update(repeating: 0, count: Int(dcp_attention_rows_max))
                        ranges.end.update(repeating: Int32(tokens), count: Int(dcp_attention_rows_max))
                        sharedTokens = tokens
                    }
                } else {
                    sharedTokens = 0
                    guard setVisible(ranges, of: split.tiles[tile.pointee.index], in: token..<token + tokens) else {
                        continue
                    }
                }
                var ahead = dcp_ahead()
                if tile.pointee.asksAhead {
                    // So many bytes later in the part of each block that is read: here, over its end, or all beyond it.
                    let from = tile.pointee.keyOffset + tile.pointee.aheadByteCount, to = from + headByteCount
                    let over = start - end
                    if from < end {
                        ahead.at = Self.chars(payload + from)
                        ahead.end = Self.chars(payload + min(to, end))
                        if to > end, let following {
                            ahead.then = Self.chars(following + start)
                            ahead.then_end = Self.chars(following + min(to + over, end))
                        }
                    } else if let following, from + over < end {
                        ahead.at = Self.chars(following + (from + over))
                        ahead.end = Self.chars(following + min(to + over, end))
                    }
                }
                dcp_attend_block(
                    kernels.table, dataType, &tiles[place].rows, payload + tile.pointee.keyOffset,
                    payload + tile.pointee.valueOffset, ranges.ranges, ahead)
            }
            token = next
        }
        if let carried { for place in tiles.indices { carried.settle(&tiles[place].rows, tile: place) } }
    }

    private static func chars(_ address: UnsafeRawPointer) -> UnsafePointer<CChar> {
        address.assumingMemoryBound(to: CChar.self)
    }

    private func kernelTile(_ index: Int, piece: Int) -> KernelTile {
        let kvHead = split.tiles[index].kvHead
        let first = split.pieces[piece].tiles.lowerBound
        var rows = kernelRows(ofTile: index, piece: piece)
        let ahead = dcp_ahead_bytes(
            kernels.table, Int32(blocks.layout.dataType.rawValue), &rows, Int64(blocks.layout.headByteCount))
        return KernelTile(
            rows: rows, keyOffset: blocks.layout.keyPanelOffset(ofHead: kvHead),
            valueOffset: blocks.layout.valuePanelOffset(ofHead: kvHead),
            asksAhead: index == first || split.tiles[index - 1].kvHead != kvHead,
            aheadByteCount: Int(ahead), shared: split.tiles[index].shared, index: index)
    }

    func kernelRows(ofTile index: Int, piece: Int) -> dcp_attention_rows {
        let tile = split.tiles[index]
        let state = state(ofTile: index, piece: piece)
        let terms = tileQueries.terms(ofTile: index)
        return dcp_attention_rows(
            rows: Int32(tile.rows), key_dim: Int32(attention.keyDim), value_dim: Int32(attention.valueDim),
            block_tokens: Int32(blocks.layout.blockTokens), terms: terms?.count ?? 0,
            scale: attention.scale, soft_cap: attention.softcap ?? 0, light_share: lightShare,
            queries: tileQueries.floats(ofTile: index), query_terms: terms?.0, maximum: state.maximum, sum: state.sum,
            output: state.output)
    }
}
