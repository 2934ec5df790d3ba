// SPDX-License-Identifier: Apache-2.0

internal import DCPCore

/// The begin of a sealed block as rows and in RAM again, for a fork that ends in it. Others that do share both.
struct Reopening {
    /// Of the sealed block: what it has under this number never changes.
    private let writer: UInt64
    /// Of the tokens of the shard.
    let rows: Lineage
    /// Of each layer, as long as one of the forks has it.
    private let blocks: [Weak]

    private struct Weak {
        weak var block: MemoryBlock?
    }

    /// - Parameter blocks: those of the fork, which only ever get more tokens while it has them.
    init(writer: UInt64, rows: Lineage, blocks: [MemoryBlock]) {
        self.writer = writer
        self.rows = rows
        self.blocks = blocks.map { Weak(block: $0) }
    }

    /// Whether it has some rows of a sealed block.
    func isReopening(_ writer: UInt64?, _ rows: Range<LocalIndex>) -> Bool {
        writer == self.writer && rows.lowerBound == self.rows.rowStart && rows.upperBound <= self.rows.rowEnd
    }

    /// Whether a sequence still has the rows, so that they are in the store.
    func isIn(_ table: LineageTable) -> Bool {
        rows.ranges.allSatisfy { table.isCovered(writer: $0.writer, blocks: $0.blocks) }
    }

    /// The blocks for another fork; nil if no fork has them any more. Their holder may drop its own later tokens
    /// meanwhile, but never these: they are committed, and a cut replaces the block.
    var borrowedBlocks: [MemoryBlock]? {
        let blocks = blocks.compactMap { $0.block.map { MemoryBlock(borrowing: $0) } }
        return blocks.count == self.blocks.count ? blocks : nil
    }
}
