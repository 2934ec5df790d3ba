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
    private let blocksPerStretch: Int

    init(_ blocks: KVBlocks, _ pieces: [WorkSplit.Piece]) {
        self.blocks = blocks
        self.pieces = pieces
        blocksPerStretch = max(1, Self.stretchByteCount / blocks.layout.payloadByteCount)
    }

    /// Called by the thread that begins a piece; pieces begin in order, or nearly.
    func begin(piece: Int) {
        let keys = pieces[piece].keys
        let first = keys.lowerBound / blocks.layout.blockTokens
        let end = (keys.upperBound + blocks.layout.blockTokens - 1) / blocks.layout.blockTokens
        if first == 0 { ask(from: 0) }
        var start = (first + blocksPerStretch - 1) / blocksPerStretch * blocksPerStretch
        while start < end {
            ask(from: start + blocksPerStretch)
            start += blocksPerStretch
        }
    }

    private func ask(from start: Int) {
        guard start < blocks.blocks.count else { return }
        let stretch = blocks.blocks[start..<min(start + blocksPerStretch, blocks.blocks.count)]
        guard !MappedPages.isResident(stretch[stretch.startIndex + stretch.count / 2]) else { return }
        for block in stretch { MappedPages.ask(for: block, byteCount: blocks.layout.payloadByteCount) }
    }
}
