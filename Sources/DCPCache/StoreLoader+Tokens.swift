// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPStore

extension StoreLoader {
    /// Builds the index of ids from the stored chunks, each of which is read and verified once.
    func tokenTable(_ entries: [(id: SequenceID, entry: TokenTable.Entry)]) throws -> TokenTable {
        var table = TokenTable()
        // Everything is new: nothing is dropped.
        for (id, entry) in entries { _ = table.put(id, entry.space, entry.record) }
        let reader = TokenReader(read: try environment.beginRead(), table: tables.tokens, sequences: table.entries)
        var read = ReadChunks()
        for (id, entry) in entries where entry.record.count > 0 {
            table.index(id, reader) { tree, reader in try reader.insert(id, into: &tree, &read) }
            progress?.indexedIDs()
        }
        return table
    }

    /// Chunks and annotations that no sequence has: a crash came before they were deleted.
    func strayTokens(_ read: borrowing ReadTransaction, _ table: TokenTable) throws -> Doomed {
        var doomed = Doomed()
        let open = Set(table.entries.values.compactMap(\.record.openChunk))
        try read.scan(tables.tokens) { bytes, _ in
            guard let key = TokenChunk.Key(bytes), !open.contains(key), !table.isUsed(key) else { return true }
            doomed.chunks.append(DoomedChunks(writer: key.writer, chunks: key.index..<key.index + 1))
            return true
        }
        try read.scan(tables.annotations) { key, value in
            guard let number = AnnotationRecord.number(key), !table.isUsed(annotation: number) else { return true }
            if doomed.annotations.last?.number != number {
                doomed.annotations.append(DoomedAnnotation(number: number, byteCount: 0))
            }
            doomed.annotations[doomed.annotations.count - 1].byteCount += value.count
            return true
        }
        return doomed
    }
}
