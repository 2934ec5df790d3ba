// SPDX-License-Identifier: Apache-2.0

internal import CAttentionKernels
internal import COpenBLAS
internal import DCPCore

/// Many rows on a machine that our vector kernels do not support: OpenBLAS has sgemm for more machines.
extension AttentionWork {
    /// Key tokens whose scores are computed at once: with 256 rows, a tile and its operands fit into a second-level
    /// cache.
    static var tileTokens: Int { 256 }

    /// Many rows: scores, softmax and outputs tile by tile, both products by sgemm.
    /// - Parameters:
    ///   - keyTokens: some of the piece's key tokens; they begin a multiple of `tileTokens` after its first one, and end
    ///     with the piece or such a multiple.
    ///   - carried: the carried sums of this tile alone.
    func multiply(_ keyTokens: Range<Int>, ofTile index: Int, piece: Int, _ carried: CarriedStates?) {
        KernelSelection.useOneBLASThread
        let tile = split.tiles[index]
        guard let queries = tileQueries.floats(ofTile: index) else {
            preconditionFailure("Kernels beside sgemm read Float32.")
        }
        let state = state(ofTile: index, piece: piece)
        var rows = kernelRows(ofTile: index, piece: piece)
        let scratch = TileScratch(rows: tile.rows, tokens: Self.tileTokens, layout: blocks.layout)
        for first in stride(from: keyTokens.lowerBound, to: keyTokens.upperBound, by: Self.tileTokens) {
            let keys = first..<min(first + Self.tileTokens, keyTokens.upperBound)
            let segments = blocks.segments(of: keys)
            if let carried, carried.count(keys.count) { carried.carry(&rows, tile: 0) }
            guard setVisible(scratch.ranges, of: tile, in: keys) else { continue }
            score(segments, count: keys.count, of: tile, queries: queries, with: scratch)
            dcp_softmax_tile(
                Int64(tile.rows), Int64(keys.count), scratch.scores, Int64(Self.tileTokens), scratch.ranges.ranges,
                attention.scale, attention.softcap ?? 0, state.maximum, state.sum, state.output,
                Int64(attention.valueDim))
            addValues(segments, count: keys.count, of: tile, with: scratch, into: state)
        }
        if keyTokens.upperBound == split.pieces[piece].keys.upperBound { carried?.settle(&rows, tile: 0) }
    }

    private var panelShape: dcp_panel_shape {
        dcp_panel_shape(
            format: Int32(blocks.layout.format.rawValue), kv_heads: Int32(blocks.layout.kvHeads),
            key_dim: Int32(attention.keyDim), value_dim: Int32(blocks.layout.ownValueDim),
            block_tokens: Int32(blocks.layout.blockTokens))
    }

    /// scores `[rows][tileTokens]` = queries `[rows][Dk]` x keys `[Dk][count]`.
    private func score(
        _ segments: [KVBlocks.Segment], count: Int, of tile: WorkSplit.Tile, queries: UnsafePointer<Float>,
        with scratch: TileScratch
    ) {
        func product(_ keys: UnsafePointer<Float>, stride: Int, count: Int, column: Int) {
            cblas_sgemm(
                Int32(dcpBlasRowMajor), Int32(dcpBlasNoTrans), Int32(dcpBlasNoTrans), Int32(tile.rows), Int32(count),
                Int32(attention.keyDim), 1, queries, Int32(attention.keyDim), keys, Int32(stride), 0,
                scratch.scores + column, Int32(Self.tileTokens))
        }
        let layout = blocks.layout
        var column = 0
        var shape = panelShape
        for segment in segments {
            let panel = segment.payload + layout.keyPanelOffset(ofHead: tile.kvHead)
            if layout.format == .float32 {
                // The panel is an operand of sgemm as it is.
                let keys = panel.assumingMemoryBound(to: Float.self) + segment.first
                product(keys, stride: layout.blockTokens, count: segment.count, column: column)
            } else {
                dcp_keys_to_tile(
                    &shape, panel, Int64(segment.first), Int64(segment.count), scratch.keys + column,
                    Int64(Self.tileTokens))
            }
            column += segment.count
        }
        if layout.format != .float32 { product(scratch.keys, stride: Self.tileTokens, count: count, column: 0) }
    }

    /// output `[rows][Dv]` += weights `[rows][count]` x values `[count][Dv]`; where keys hold the values, their first
    /// rows are an operand as they stand, or as `score` left them.
    private func addValues(
        _ segments: [KVBlocks.Segment], count: Int, of tile: WorkSplit.Tile, with scratch: TileScratch,
        into state: State
    ) {
        let layout = blocks.layout
        let dim = attention.valueDim, areKeys = layout.ownValueDim == 0
        func product(_ values: UnsafePointer<Float>, stride: Int, count: Int, column: Int, dims: Range<Int>) {
            cblas_sgemm(
                Int32(dcpBlasRowMajor), Int32(dcpBlasNoTrans), Int32(areKeys ? dcpBlasTrans : dcpBlasNoTrans),
                Int32(tile.rows), Int32(dims.count), Int32(count), 1, scratch.scores + column, Int32(Self.tileTokens),
                values, Int32(stride), 1, state.output + dims.lowerBound, Int32(dim))
        }
        var column = 0
        var shape = panelShape
        for segment in segments where !areKeys || layout.format == .float32 {
            if areKeys {
                let panel = segment.payload + layout.keyPanelOffset(ofHead: tile.kvHead)
                product(
                    panel.assumingMemoryBound(to: Float.self) + segment.first, stride: layout.blockTokens,
                    count: segment.count, column: column, dims: 0..<dim)
                column += segment.count
                continue
            }
            let panel = segment.payload + layout.valuePanelOffset(ofHead: tile.kvHead)
            if layout.format == .float32 {
                for strip in stride(from: 0, to: dim, by: Int(dcp_strip_dims)) {
                    let dims = strip..<min(strip + Int(dcp_strip_dims), dim)
                    let values = panel.assumingMemoryBound(to: Float.self) + strip * layout.blockTokens
                    product(
                        values + segment.first * dims.count, stride: dims.count, count: segment.count, column: column,
                        dims: dims)
                }
            } else {
                dcp_values_to_tile(
                    &shape, panel, Int64(segment.first), Int64(segment.count), scratch.values + column * dim)
            }
            column += segment.count
        }
        if layout.format != .float32 {
            product(
                areKeys ? scratch.keys : scratch.values, stride: areKeys ? Self.tileTokens : dim, count: count,
                column: 0, dims: 0..<dim)
        }
    }
}
