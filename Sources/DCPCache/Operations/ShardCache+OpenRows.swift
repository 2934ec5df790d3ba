// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCore
internal import DCPStore
internal import Synchronization

/// The committed rows of open blocks, in the table `tail`.
extension ShardCache {
    /// The tokens of a sequence that have some.
    func openRows(committed: Position) -> Range<LocalIndex> {
        shard.start(ofBlock: shard.fullBlocks(of: committed))..<shard.end(of: committed)
    }

    /// Gives a sequence other rows, or none; part of a job's body, undone by putting the former back.
    /// - Returns: rows that no sequence has any more, also of those that drop them in the same transaction.
    func replaceRows(of sequence: SequenceCache, by replacement: Lineage?) -> [DoomedTailRows] {
        let pages = environment.runPages(valueByteCount: sequence.model.tail.byteCount)
        return rowLineages.withLock { table in
            if let former = table[sequence.id], let replacement, replacement.continues(former) {
                table[sequence.id] = replacement
                return []
            }
            return table.replace(sequence.id, by: replacement).map { writer, rows in
                DoomedTailRows(writer: writer, tokens: Range<LocalIndex>(rows), pages: pages)
            }
        }
    }

    /// Writes rows of tokens, which are all in `blocks`, one for each layer, behind those of a lineage.
    func putRows(
        _ tokens: Range<LocalIndex>, of sequence: SequenceCache, blocks: [BlockSource], behind rows: inout Lineage,
        _ transaction: inout WriteTransaction
    ) throws {
        let layout = sequence.model.tail
        for token in tokens {
            let key = TailRecord.key(writer: rows.writer, localIndex: token)
            try transaction.place(tables.tail, key, byteCount: layout.byteCount) {
                TailRecord.write(
                    key: key, blocks: blocks, token: shard.block(of: token).offset, layout: layout, into: $0)
            }
        }
        rows.seal(upTo: tokens.upperBound)
    }
}

extension Lineage {
    /// Whether it is another with more behind it; of two lineages of one sequence that has not been cut between them.
    fileprivate func continues(_ former: Lineage) -> Bool {
        start == former.start && sealedBlocks >= former.sealedBlocks
    }
}
