package import DCPCore

/// How attention is cut into pieces that may run in any order, on any threads.
///
/// It depends on the shape of the work only. So a result has the same bits however many threads there are, and whichever
/// finishes first.
package struct WorkSplit: Sendable {
    /// Query rows that share a KV head: some heads, some of the entry's tokens. They are one operand of the kernels, so
    /// each byte of K and V is read once for all of them.
    package struct Tile: Hashable, Sendable {
        package let kvHead: Int
        /// Query heads, numbered inside the group.
        package let heads: Range<Int>
        /// The entry's tokens, from 0.
        package let tokens: Range<Int>
        /// Key tokens that the last of `tokens` sees.
        package let keyTokens: Int
        /// Indices into `pieces`, in key order.
        package let pieces: Range<Int>

        package var rows: Int { heads.count * tokens.count }
        package var usesDecodeKernel: Bool { rows <= WorkSplit.decodeRowsMax }
    }

    /// A tile's rows against some of the key tokens.
    package struct Piece: Hashable, Sendable {
        package let tile: Int
        package let keys: Range<Int>
    }

    package private(set) var tiles: [Tile] = []
    package private(set) var pieces: [Piece] = []

    /// Up to here the decode kernel beats packing matrices for sgemm.
    package static let decodeRowsMax = 15
    package static let rowsMax = 256
    /// Rows of one tile come from at most this many heads, so that many heads and many tokens split both ways.
    package static let headsMax = 64
    package static let keyTokensMin = 2048
    /// Above this many pieces their keys double: each piece keeps a state of its own until the end.
    package static let piecesMax = 256

    /// - Parameters:
    ///   - heads: query heads to compute, numbered inside the group; may be empty.
    ///   - tokens: the entry's query tokens.
    ///   - keyTokens: tokens to attend over.
    ///   - blockTokens: pieces begin and end at blocks.
    ///   - causal: query token i sees key tokens 0...i.
    package init(
        partition: HeadPartition, heads: Range<Int>, tokens: Int, keyTokens: Int, blockTokens: Int, causal: Bool
    ) {
        guard !heads.isEmpty, tokens > 0, keyTokens > 0 else { return }
        let shared = partition.queryHeadsPerKVHead
        var rows: [(kvHead: Int, heads: Range<Int>, tokens: Range<Int>)] = []
        let lastKVHead = partition.kvHead(ofQueryHead: heads.upperBound - 1)
        for kvHead in partition.kvHead(ofQueryHead: heads.lowerBound)...lastKVHead {
            let all = heads.clamped(to: kvHead * shared..<(kvHead + 1) * shared)
            for some in Self.chunks(of: all, max: Self.headsMax) {
                for slice in Self.chunks(of: 0..<tokens, max: max(1, Self.rowsMax / some.count)) {
                    rows.append((kvHead, some, slice))
                }
            }
        }
        var keyTokensPerPiece = (Self.keyTokensMin + blockTokens - 1) / blockTokens * blockTokens
        while keyTokensPerPiece < keyTokens,
            rows.count * ((keyTokens + keyTokensPerPiece - 1) / keyTokensPerPiece) > Self.piecesMax
        {
            keyTokensPerPiece *= 2
        }
        for (kvHead, heads, tokens) in rows {
            let seen = causal ? min(tokens.upperBound, keyTokens) : keyTokens
            let first = pieces.count
            for keys in Self.chunks(of: 0..<seen, max: keyTokensPerPiece) {
                pieces.append(Piece(tile: tiles.count, keys: keys))
            }
            tiles.append(
                Tile(kvHead: kvHead, heads: heads, tokens: tokens, keyTokens: seen, pieces: first..<pieces.count))
        }
    }

    private static func chunks(of range: Range<Int>, max count: Int) -> [Range<Int>] {
        stride(from: range.lowerBound, to: range.upperBound, by: count).map {
            $0..<min($0 + count, range.upperBound)
        }
    }
}
