// SPDX-License-Identifier: Apache-2.0

internal import CAttentionKernels
internal import DCPCore

/// Takes pieces through the kernels.
extension AttentionWork {
    /// - Parameters:
    ///   - keys: some of the piece's keys; they begin with a block, and end with the piece or a block.
    ///   - carried: the carried sums of the piece's tiles.
    func attend(_ keys: Range<Int>, ofPiece index: Int, _ carried: CarriedStates?) {
        let piece = split.pieces[index]
        let pass = BlockPass(blocks, kernels, end: piece.keys.upperBound)
        withUnsafeTemporaryAllocation(of: BlockPass.Tile.self, capacity: piece.tiles.count) { tiles in
            for (place, tile) in piece.tiles.enumerated() {
                tiles.initializeElement(
                    at: place,
                    to: pass.tile(
                        kernelRows(ofTile: tile, piece: index), kvHead: split.tiles[tile].kvHead,
                        of: kvHeads(of: piece),
                        isFirst: tile == piece.tiles.lowerBound
                            || split.tiles[tile - 1].kvHead != split.tiles[tile].kvHead,
                        shared: split.tiles[tile].shared, prefetch))
            }
            pass.run(keys, tiles) { tokens in
                guard let carried, carried.count(tokens) else { return }
                for place in tiles.indices { carried.carry(&tiles[place].rows, tile: place) }
            } setVisible: { ranges, place, keys in
                setVisible(ranges, of: split.tiles[piece.tiles.lowerBound + place], in: keys)
            }
            guard let carried, keys.upperBound == piece.keys.upperBound else { return }
            for place in tiles.indices { carried.settle(&tiles[place].rows, tile: place) }
        }
    }

    func kvHeads(of piece: WorkSplit.Piece) -> Int {
        split.tiles[piece.tiles.upperBound - 1].kvHead - split.tiles[piece.tiles.lowerBound].kvHead + 1
    }

    func kernelRows(ofTile index: Int, piece: Int) -> dcp_attention_rows {
        kernelRows(split.tiles[index].rows, queries: tileQueries, ofTile: index, state(ofTile: index, piece: piece))
    }

    /// - Parameters:
    ///   - count: the number of rows.
    ///   - queries: the queries of their tile.
    ///   - state: the state of these rows.
    func kernelRows(_ count: Int, queries: TileQueries, ofTile index: Int, _ state: State) -> dcp_attention_rows {
        let terms = queries.terms(ofTile: index)
        return dcp_attention_rows(
            rows: Int32(count), key_dim: Int32(attention.keyDim), value_dim: Int32(attention.valueDim),
            block_tokens: Int32(blocks.layout.blockTokens),
            value_tokens: Int32(BlockPass.stepTokens(of: blocks.layout)),
            terms: terms?.count ?? 0,
            scale: attention.scale, soft_cap: attention.softcap ?? 0, light_share: lightShare,
            queries: queries.floats(ofTile: index), plain_queries: queries.plainFloats(ofTile: index),
            query_terms: terms?.0, maximum: state.maximum, sum: state.sum, output: state.output)
    }
}
