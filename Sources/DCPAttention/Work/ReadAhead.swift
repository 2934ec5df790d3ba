internal import DCPCore

/// Asks the kernel for blocks of a mapped file before a thread runs into them.
///
/// A context that does not fit into memory is read from disk as it is attended over, and a page fault brings some
/// 128 KiB while its thread waits. So whoever begins a piece looks at the one that comes `aheadByteCount` later, and asks
/// for all its pages when some are not in memory. Looking costs three system calls a piece, some 0.5 % of its time;
/// asking for pages that are there would cost as much as reading them.
struct ReadAhead {
    /// What a disk delivers in some 10 ms.
    private static let aheadByteCount = 16 << 20

    private let blocks: KVBlocks
    private let pieces: [WorkSplit.Piece]
    private let distance: Int

    init(_ blocks: KVBlocks, _ pieces: [WorkSplit.Piece]) {
        self.blocks = blocks
        self.pieces = pieces
        let keyTokens = pieces.first?.keys.count ?? 1
        let byteCount =
            (keyTokens + blocks.layout.blockTokens - 1) / blocks.layout.blockTokens
            * blocks.layout.payloadByteCount
        distance = max(1, Self.aheadByteCount / byteCount)
    }

    /// Called by the thread that begins a piece; pieces begin in order, or nearly.
    func begin(piece: Int) {
        if piece == 0 { (0..<min(distance, pieces.count)).forEach(ask) }
        if piece + distance < pieces.count { ask(forPiece: piece + distance) }
    }

    private func ask(forPiece index: Int) {
        let keys = pieces[index].keys, blockTokens = blocks.layout.blockTokens
        let needed = keys.lowerBound / blockTokens..<(keys.upperBound + blockTokens - 1) / blockTokens
        let samples = [needed.lowerBound, (needed.lowerBound + needed.upperBound) / 2, needed.upperBound - 1]
        guard samples.contains(where: { !MappedPages.isResident(blocks.blocks[$0]) }) else { return }
        for block in needed { MappedPages.ask(for: blocks.blocks[block], byteCount: blocks.layout.payloadByteCount) }
    }
}
