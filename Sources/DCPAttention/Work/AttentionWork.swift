// SPDX-License-Identifier: Apache-2.0

internal import CAttentionKernels
public import DCPCore
internal import Synchronization

/// Attention of one entry's query tokens over some blocks: a shard's context, or the step's new tokens.
///
/// DESIGN: the work is cut into pieces by its shape alone (`WorkSplit`). A piece is some query rows against some key
/// tokens; it writes a state of its own, so pieces run in any order on any threads without a lock, and `finish` merges
/// them in key order. Of a long piece a thread computes a portion at a time (`PieceRun`). Few rows and many go through
/// the same kernels, which take up to 64 rows that share a KV head at once; without vector kernels many rows go through
/// sgemm, over tiles of 256 rows by 256 tokens. Scratch memory is that of one tile, whatever the context's length.
///
/// `@unchecked Sendable`: all is constant after `init` but the states, and the queries of tiles that have one piece;
/// each is written by the one run of its piece, and read by `finish`, which checks through an atomic count that all
/// have ended.
public final class AttentionWork: @unchecked Sendable {
    public let attention: LayerAttention
    /// The query heads computed here, as indices in the head group.
    public let heads: Range<Int>
    /// This entry's tokens among the step's.
    public let tokens: Range<Int>

    let queries: QueryRows
    let blocks: KVBlocks
    let visible: VisibleTokens
    let kernels: AttentionKernels
    let prefetch: PrefetchTable
    let split: WorkSplit
    let tileQueries: TileQueries
    /// The most bytes that rows of queries take in the kernels' form.
    package static func queryByteCountMax(rows: Int, _ layout: PanelLayout) -> Int {
        TileQueries.byteCountMax(rows: rows, layout)
    }

    /// Kernels that multiply bf16 round weights to it that are at most this share of the sum so far: a third less to
    /// compute. FlashAttention rounds all of them, which costs up to 2^-8 when few tokens weigh much; of light ones the
    /// errors cancel each other out. 0 over few tokens, where it would gain little. The number of rows has no part in
    /// it: an entry's are computed beside those of others, and alone.
    let lightShare: Float
    /// See `CarriedStates.shift`.
    let carryShift: Int32
    let readAhead: ReadAhead?
    /// The first row of each tile among the states.
    private let firstRow: [Int]
    /// For each tile, the number of pieces of all tiles before it.
    private let firstPiece: [Int]
    /// `[tile][piece of the tile][row]`; `output` has Dv numbers for each, and a free cache line after each piece.
    private let maximum: UnsafeMutablePointer<Float>
    private let sum: UnsafeMutablePointer<Float>
    private let output: UnsafeMutablePointer<Float>
    let finishedPieces = Atomic<Int>(0)

    /// - Parameters:
    ///   - attention: the layer's; its dims are those of `over.layout`.
    ///   - partition: the group's heads; which KV head a query head reads.
    ///   - heads: the query heads to compute, as indices in the head group; a part of `queries.heads`, may be empty.
    ///   - queries: the step's queries, unscaled; the layer's scale is applied to the scores here.
    ///   - tokens: this entry's tokens among the step's.
    ///   - visible: which of the key tokens each of them sees.
    ///   - over: keys and values; their memory stays valid until `finish` has returned.
    public init(
        attention: LayerAttention, partition: HeadPartition, heads: Range<Int>, queries: QueryRows, tokens: Range<Int>,
        visible: VisibleTokens, over blocks: KVBlocks, kernels: AttentionKernels = .chosen,
        prefetch: PrefetchTable = .current
    ) {
        precondition(
            blocks.layout.kvHeads == partition.kvHeads && blocks.layout.keyDim == attention.keyDim
                && blocks.layout.values == attention.values,
            "The blocks are laid out for other attention.")
        precondition(heads.lowerBound >= 0 && heads.upperBound <= partition.queryHeads)
        precondition(heads.isEmpty || heads == heads.clamped(to: queries.heads), "Heads without queries.")
        precondition(tokens.lowerBound >= 0 && tokens.upperBound <= queries.tokens, "Tokens without queries.")
        precondition(queries.keyDim == attention.keyDim)
        precondition(
            visible.count == tokens.count && visible.keyTokens == blocks.tokens,
            "What is visible is of other tokens than these.")
        self.attention = attention
        self.heads = heads
        self.tokens = tokens
        self.queries = queries
        self.blocks = blocks
        self.visible = visible
        self.kernels = kernels
        self.prefetch = prefetch
        let split = WorkSplit(
            partition: partition, heads: heads, visible: visible, layout: blocks.layout, rowsMax: kernels.rowsMax)
        self.split = split
        carryShift = CarriedStates.shift(tokensMax: split.pieces.reduce(0) { max($0, $1.keys.count) })
        readAhead = blocks.isMapped ? ReadAhead(blocks, split.pieces) : nil
        tileQueries = TileQueries(
            rows: split.tiles.map(\.rows), keyDim: attention.keyDim, format: blocks.layout.format,
            asTerms: kernels.readsTerms(of: blocks.layout.format))
        // The thread of a tile's only piece makes its queries.
        for (index, tile) in split.tiles.enumerated() where tile.pieces.count > 1 {
            tileQueries.make(tile, at: index, of: queries, tokens: tokens)
        }
        lightShare = !visible.areOwn && visible.most >= Self.lightTokensMin ? Self.lightShareMax : 0
        var rows = 0
        firstRow = split.tiles.map { tile in
            defer { rows += tile.rows * tile.pieces.count }
            return rows
        }
        maximum = .allocate(capacity: rows)
        sum = .allocate(capacity: rows)
        var pieces = 0
        firstPiece = split.tiles.map { tile in
            defer { pieces += tile.pieces.count }
            return pieces
        }
        output = .allocate(capacity: rows * attention.valueDim + pieces * Self.freeFloats)
    }

    deinit {
        maximum.deallocate()
        sum.deallocate()
        output.deallocate()
    }

    /// No weight is rounded over fewer tokens than this.
    private static let lightTokensMin = 2048
    private static let lightShareMax: Float = 1 / 32
    /// A cache line. Without it the outputs of a row are a power of two apart in all pieces, so they compete for the
    /// same few sets of every cache, and merging them takes half as long again.
    private static let freeFloats = 16

    /// The largest relative error of a weight beside the rounding of its score: 0 with Float32 arithmetic, 2^-17 if
    /// weights are sums of two bf16, 2^-7 if light ones are a single bf16. The error of an output is at most this times
    /// the largest value. Light weights reach it only if all roundings have the sign of their values; they are rounded
    /// up and down in turn, so the error is below 2^-11 unless values were made for it.
    package var weightErrorMax: Float {
        guard kernels.readsTerms(of: blocks.layout.format) else { return 0 }
        // Half a unit of 16 bits for each of 64 tokens.
        if blocks.layout.format == .int8 { return 32 / 65535 }
        return lightShare > 0 ? 0x1p-7 : 0x1p-17
    }

    /// The largest error of a score beside Float32's rounding, relative to the product of norms: each query that is a
    /// 16-bit number is off by half a unit.
    package static func scoreErrorMax(_ format: CacheFormat, keyDim: Int, _ kernels: AttentionKernels) -> Double {
        guard format == .int8, kernels.readsTerms(of: format) else { return 0 }
        return 0.5 / (keyDim > 512 ? 29_000 : 32_639) * Double(keyDim).squareRoot()
    }

    /// The number of pieces to run; 0 without heads, without tokens, or with nothing to attend over.
    public var pieceCount: Int { split.pieces.count }

    /// Computes one piece. Distinct pieces may run at the same time on different threads; each runs exactly once.
    /// - Parameter piece: `0..<pieceCount`.
    public func run(piece index: Int) {
        let run = PieceRun(self, piece: index)
        while run.advance() {}
    }

    /// Query rows that share a KV head; at least one if there are pieces.
    package var tileCount: Int { split.tiles.count }

    /// The number of outputs that are merged for a tile.
    package func outputCount(ofTile index: Int) -> Int {
        split.tiles[index].rows * attention.valueDim * split.tiles[index].pieces.count
    }

    /// Merges the pieces in key order and writes the entry's rows. All pieces have run.
    ///
    /// Rows of an entry with nothing to attend over become (0, -inf), which is decided from the length.
    /// - Parameter states: rows `[heads][step tokens]`; only rows of this entry's tokens are written.
    public func finish(into states: inout AttentionStates) { finish(tiles: 0..<tileCount, into: &states) }

    /// The same for some of the tiles, for a thread that does other work in between.
    package func finish(tiles: Range<Int>, into states: inout AttentionStates) {
        precondition(finishedPieces.load(ordering: .acquiring) == pieceCount, "Each piece runs exactly once.")
        precondition(
            states.rows == heads.count * queries.tokens && states.valueDim == attention.valueDim,
            "The states are not [heads][step tokens][Dv] of this work.")
        let dim = attention.valueDim
        states.outputs.withUnsafeMutableBufferPointer { outputs in
            states.lse.withUnsafeMutableBufferPointer { lse in
                if pieceCount == 0 {
                    for head in 0..<heads.count {
                        let first = head * queries.tokens
                        for row in first + tokens.lowerBound..<first + tokens.upperBound {
                            outputs[row * dim..<(row + 1) * dim].update(repeating: 0)
                            lse[row] = NaturalLogSumExp.empty.value
                        }
                    }
                }
                guard let outputs = outputs.baseAddress, let lse = lse.baseAddress else { return }
                for index in tiles {
                    let tile = split.tiles[index]
                    let first = state(ofTile: index, piece: tile.pieces.lowerBound)
                    for row in 0..<tile.rows {
                        let (head, token) = row.quotientAndRemainder(dividingBy: tile.tokens.count)
                        let destination =
                            (tile.heads.lowerBound - heads.lowerBound + head) * queries.tokens + tokens.lowerBound
                            + tile.tokens.lowerBound + token
                        dcp_finish_row(
                            Int64(tile.pieces.count), Int64(tile.rows), Int64(tile.rows * dim + Self.freeFloats),
                            Int64(dim), Int32(dcp_weight_shift) + carryShift, first.maximum + row, first.sum + row,
                            first.output + row * dim, outputs + destination * dim, lse + destination)
                    }
                }
            }
        }
    }

    /// The running state of a tile's rows in one piece: maximum and sum `[rows]`, output `[rows][Dv]`.
    struct State {
        let maximum: UnsafeMutablePointer<Float>
        let sum: UnsafeMutablePointer<Float>
        let output: UnsafeMutablePointer<Float>

        /// Set here and not by the kernels, which only add to a state.
        func begin(rows: Int, valueDim: Int) {
            maximum.update(repeating: -.infinity, count: rows)
            sum.update(repeating: 0, count: rows)
            output.update(repeating: 0, count: rows * valueDim)
        }
    }

    func state(ofTile index: Int, piece: Int) -> State {
        let tile = split.tiles[index]
        let number = piece - tile.pieces.lowerBound
        let row = firstRow[index] + number * tile.rows
        let free = (firstPiece[index] + number) * Self.freeFloats
        return State(maximum: maximum + row, sum: sum + row, output: output + row * attention.valueDim + free)
    }

    /// Sets which of some key tokens each row of a tile sees, as indices from the first of these.
    /// - Returns: whether any row sees one; otherwise nothing is set.
    func setVisible(
        _ ranges: RowRanges, of tile: WorkSplit.Tile, in keys: Range<Int>
    ) -> Bool {
        guard tile.seen.overlaps(keys) else { return false }
        setRanges(ranges, of: tile, in: keys)
        return true
    }

    /// - Parameter first: the index in `ranges` of the tile's first row.
    func setRanges(_ ranges: RowRanges, from first: Int = 0, of tile: WorkSplit.Tile, in keys: Range<Int>) {
        for (place, token) in tile.tokens.enumerated() {
            let seen = visible[token].clamped(to: keys)
            for row in stride(from: first + place, to: first + tile.rows, by: tile.tokens.count) {
                ranges.first[row] = Int32(seen.lowerBound - keys.lowerBound)
                ranges.end[row] = Int32(seen.upperBound - keys.lowerBound)
            }
        }
    }
}
