// SPDX-License-Identifier: Apache-2.0

internal import DCPCore

/// Asks the kernel for blocks of a mapped file before a thread runs into them.
///
/// A context that does not fit into memory is read from disk as it is attended over, and a page fault brings some
/// 128 KiB while its thread waits. So whoever comes into a stretch of blocks looks at the one after it, and asks for all
/// its pages when its middle is not in memory: the kernel takes pages away in the order of their use, so by long stretches.
/// A look is a system call of 3 us; asking for pages that are there would cost as much as reading them.
struct ReadAhead {
    /// What a disk delivers in some 10 ms.
    private static let stretchByteCount = 16 << 20

    private let blocks: KVBlocks
    private let pieces: [WorkSplit.Piece]
    /// The blocks that any piece reads.
    private let read: Range<Int>
    private let blocksPerStretch: Int

    init(_ blocks: KVBlocks, _ pieces: [WorkSplit.Piece]) {
        self.blocks = blocks
        self.pieces = pieces
        let ranges = pieces.map { Self.blocks(of: $0, in: blocks.layout) }
        read = (ranges.map(\.lowerBound).min() ?? 0)..<(ranges.map(\.upperBound).max() ?? 0)
        blocksPerStretch = max(1, Self.stretchByteCount / blocks.layout.payloadByteCount)
    }

    /// Called by the thread that begins a piece; pieces begin in order, or nearly.
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
