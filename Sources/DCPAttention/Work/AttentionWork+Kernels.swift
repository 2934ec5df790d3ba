internal import CAttentionKernels
internal import DCPCore

/// A piece through the kernels: block after block, in each the KV heads in the order of their addresses.
extension AttentionWork {
    /// How far ahead of the kernels memory is asked for, as measured to serve 4 and 8 rows best; less is too late, more
    /// falls out of the first-level cache before it is used.
    private static var aheadByteCount: Int { 20 << 10 }

    func attend(piece pieceIndex: Int) {
        let piece = split.pieces[pieceIndex]
        let layout = blocks.layout
        let headByteCount = layout.headByteCount
        let count = piece.tiles.count
        withUnsafeTemporaryAllocation(of: dcp_attention_rows.self, capacity: count) { tileRows in
            withUnsafeTemporaryAllocation(of: Int32.self, capacity: Int(dcp_attention_rows_max)) { visible in
                guard let rows = tileRows.baseAddress, let visible = visible.baseAddress else { return }
                for index in 0..<count {
                    (rows + index).initialize(to: kernelRows(ofTile: piece.tiles.lowerBound + index, piece: pieceIndex))
                }
                // K and V of the piece's KV heads lie beside each other in a block.
                let heads = split.tiles[piece.tiles.lowerBound].kvHead...split.tiles[piece.tiles.upperBound - 1].kvHead
                let start = heads.lowerBound * headByteCount, end = (heads.upperBound + 1) * headByteCount
                var token = piece.keys.lowerBound
                while token < piece.keys.upperBound {
                    let payload = blocks.blocks[token / layout.blockTokens]
                    let next = token + layout.blockTokens
                    let following = next < piece.keys.upperBound ? blocks.blocks[next / layout.blockTokens] : nil
                    let tokens = min(next, piece.keys.upperBound) - token
                    for index in 0..<count {
                        let tile = split.tiles[piece.tiles.lowerBound + index]
                        guard setVisible(visible, of: tile, first: token, count: tokens) else { continue }
                        let head = payload + layout.keyPanelOffset(ofHead: tile.kvHead)
                        // Tiles that share a KV head find it in a cache; the first of them asks for what comes next.
                        let isFirst =
                            index == 0 || split.tiles[piece.tiles.lowerBound + index - 1].kvHead != tile.kvHead
                        let from = layout.keyPanelOffset(ofHead: tile.kvHead) + Self.aheadByteCount
                        let ahead =
                            isFirst
                            ? Self.ahead(from..<from + headByteCount, of: payload, start..<end, then: following)
                            : dcp_ahead()
                        dcp_attend_block(
                            kernels.table, Int32(layout.dataType.rawValue), rows + index, head,
                            payload + layout.valuePanelOffset(ofHead: tile.kvHead), visible, ahead)
                    }
                    token = next
                }
            }
        }
    }

    /// A range of a block's bytes that may run over the end of `read`, the part that is read of each block, into the
    /// next block.
    private static func ahead(
        _ range: Range<Int>, of payload: UnsafeRawPointer, _ read: Range<Int>, then next: UnsafeRawPointer?
    ) -> dcp_ahead {
        func pointer(_ base: UnsafeRawPointer, _ offset: Int) -> UnsafePointer<CChar> {
            (base + offset).assumingMemoryBound(to: CChar.self)
        }
        let here = range.clamped(to: read)
        let over = max(range.lowerBound, read.upperBound)..<max(range.upperBound, read.upperBound)
        var ahead = dcp_ahead()
        if !here.isEmpty {
            ahead.at = pointer(payload, here.lowerBound)
            ahead.end = pointer(payload, here.upperBound)
        }
        guard let next, !over.isEmpty else { return ahead }
        let first = read.lowerBound + over.lowerBound - read.upperBound
        let last = min(first + over.count, read.upperBound)
        if here.isEmpty {
            ahead.at = pointer(next, first)
            ahead.end = pointer(next, last)
        } else {
            ahead.then = pointer(next, first)
            ahead.then_end = pointer(next, last)
        }
        return ahead
    }

    private func kernelRows(ofTile index: Int, piece: Int) -> dcp_attention_rows {
        let tile = split.tiles[index]
        let state = state(ofTile: index, piece: piece)
        let terms = tileQueries.terms(ofTile: index)
        return dcp_attention_rows(
            rows: Int32(tile.rows), key_dim: Int32(model.keyDim), value_dim: Int32(model.valueDim),
            block_tokens: Int32(blocks.layout.blockTokens), terms: terms?.count ?? 0,
            weight_terms: roundsWeights ? 1 : 2, scale: model.scale, soft_cap: model.softcap ?? 0,
            queries: tileQueries.floats(ofTile: index), query_terms: terms?.0, maximum: state.maximum, sum: state.sum,
            output: state.output)
    }
}
