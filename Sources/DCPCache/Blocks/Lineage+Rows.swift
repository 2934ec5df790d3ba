// SPDX-License-Identifier: Apache-2.0

internal import DCPCore

/// The lineage of the rows of an open block: what it counts are the tokens of the shard.
extension Lineage {
    init(writer: UInt64, from start: LocalIndex) { self.init(writer: writer, from: start.value) }

    /// The first token whose row it names; those before it are in sealed blocks.
    var rowStart: LocalIndex { LocalIndex(start) }

    /// Behind the last token whose row it names.
    var rowEnd: LocalIndex { LocalIndex(sealedBlocks) }

    /// Each row, with its writer.
    var rowPlaces: [(writer: UInt64, index: LocalIndex)] { places.map { ($0.writer, LocalIndex($0.index)) } }

    func writer(of index: LocalIndex) -> UInt64? { writer(ofBlock: index.value) }

    /// The own writer has written the rows up to `end`.
    mutating func seal(upTo end: LocalIndex) { seal(upTo: end.value) }

    /// The rows before `end`, for a sequence that continues with another writer.
    func cut(to end: LocalIndex, writer: UInt64) -> Lineage { cut(to: end.value, writer: writer) }

    /// Without the rows before a token.
    func dropping(before index: LocalIndex) -> Lineage { dropping(before: index.value) }
}
