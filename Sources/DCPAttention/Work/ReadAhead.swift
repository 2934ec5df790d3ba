// SPDX-License-Identifier: Apache-2.0

internal import DCPCore

/// Reads blocks of a mapped file ahead of the threads that attend over them.
///
/// A context that does not fit into memory is read from disk during attention, and each page fault reads some 128 KiB
/// while its thread waits. So the thread that enters a stretch of blocks checks the next stretch, and prefetches all of
/// its pages if its middle is not in memory. One page stands for the stretch because the kernel evicts pages in the
/// order of their last use. The check is a system call of 3 us; prefetching pages that are in memory would take as long
/// as reading them.
struct ReadAhead {
    /// A disk reads this much in about 10 ms.
    private static let stretchByteCount = 16 << 20

    private let blocks: KVBlocks
    private let pieces: [WorkSplit.Piece]
    /// All blocks that a piece reads.
    private let read: Range<Int>
    private let blocksPerStretch: Int

    init(_ blocks: KVBlocks, _ pieces: [WorkSplit.Piece]) {
        self.blocks = blocks
        self.pieces = pieces
        let ranges = pieces.map { Self.blocks(of: $0, in: blocks.layout) }
        read = (ranges.map(\.lowerBound).min() ?? 0)..<(ranges.map(\.upperBound).max() ?? 0)
        blocksPerStretch = max(1, Self.stretchByteCount / blocks.layout.payloadByteCount)
    }

    /// The thread that begins a piece calls this; pieces begin in order, or nearly so.
    func begin(piece: Int) {
        let own = Self.blocks(of: pieces[piece], in: blocks.layout)
        if own.lowerBound == read.lowerBound { willNeed(from: read.lowerBound) }
        let stretches = (own.lowerBound - read.lowerBound + blocksPerStretch - 1) / blocksPerStretch
        var start = read.lowerBound + stretches * blocksPerStretch
        while start < own.upperBound {
            willNeed(from: start + blocksPerStretch)
            start += blocksPerStretch
        }
    }

    private static func blocks(of piece: WorkSplit.Piece, in layout: PanelLayout) -> Range<Int> {
        let end = (piece.keys.upperBound + layout.blockTokens - 1) / layout.blockTokens
        return piece.keys.lowerBound / layout.blockTokens..<end
    }

    private func willNeed(from start: Int) {
        guard start < read.upperBound else { return }
        let stretch = blocks.blocks[start..<min(start + blocksPerStretch, read.upperBound)]
        guard !MappedPages.isResident(stretch[stretch.startIndex + stretch.count / 2]) else { return }
        for block in stretch { MappedPages.willNeed(block, byteCount: blocks.layout.payloadByteCount) }
    }
}
