// SPDX-License-Identifier: Apache-2.0

internal import DCPCore

/// Values that no sequence refers to any more and that are still in the store.
struct Doomed: Sendable {
    var blocks: [DoomedBlocks] = []
    var rows: [DoomedTailRows] = []
    var chunks: [DoomedChunks] = []
    var annotations: [DoomedAnnotation] = []

    var isEmpty: Bool { blocks.isEmpty && rows.isEmpty && chunks.isEmpty && annotations.isEmpty }

    /// Those of ids and annotations about: none is 0 pages.
    var pages: Int {
        blocks.reduce(0) { $0 + $1.layers.count * $1.blocks.count * $1.pages }
            + rows.reduce(0) { $0 + $1.tokens.count * $1.pages } + chunks.reduce(0) { $0 + ($1.chunks.count + 2) / 3 }
            + annotations.reduce(0) { $0 + 1 + $1.byteCount / 4096 }
    }

    static func += (a: inout Doomed, b: Doomed) {
        a.blocks += b.blocks
        a.rows += b.rows
        a.chunks += b.chunks
        a.annotations += b.annotations
    }
}

/// Blocks to delete, in every layer of a range.
struct DoomedBlocks: Sendable {
    var model: ModelID
    var writer: UInt64
    var layers: Range<Int>
    var blocks: Range<Int>
    /// Pages that one block takes.
    var pages: Int
}

/// Rows to delete.
struct DoomedTailRows: Sendable {
    var writer: UInt64
    /// Of the tokens of the shard.
    var tokens: Range<LocalIndex>
    /// Pages that one row takes; 0 in a leaf.
    var pages: Int
}

/// Chunks of token ids to delete.
struct DoomedChunks: Sendable {
    var writer: UInt64
    var chunks: Range<Int>
}

/// An annotation to delete.
struct DoomedAnnotation: Sendable {
    var number: UInt64
    var byteCount: Int
}
