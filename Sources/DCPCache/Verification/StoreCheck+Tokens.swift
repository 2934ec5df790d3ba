// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPStore

/// Token ids and annotations.
extension StoreCheck {
    /// The ids and the annotation of a sequence. A chunk that forks share is read for each: it is a kilobyte.
    mutating func checkTokens(
        of id: SequenceID, _ record: TokenRecord, _ read: borrowing ReadTransaction, _ found: inout [Suspect]
    ) throws {
        for index in 0..<(record.count + TokenChunk.tokens - 1) / TokenChunk.tokens {
            progress.byteCount += record.tokens(inChunk: index) * 4
            if try read.chunk(index, of: record, in: tables.tokens) != nil { continue }
            let finding = StoreFinding(
                .tokenIDs, sequence: id, intactLength: index * TokenChunk.tokens,
                "\(TokenChunk.damage(index, of: id)) on \(rank); \(ShardCache.idsRemedy).")
            found.append(Suspect(finding: finding))
        }
        guard let annotation = record.annotation else { return }
        progress.byteCount += annotation.byteCount
        let isGood = try read.withValue(tables.annotations, AnnotationRecord.key(annotation.number)) {
            AnnotationRecord.bytes($0, annotation) != nil
        }
        if isGood == true { return }
        let finding = StoreFinding(
            .annotation, sequence: id,
            "The annotation of \(id) on \(rank) is missing or fails its checksum; commit another.")
        found.append(Suspect(finding: finding))
    }

    /// Scans the keys of `tokens` and `annotations` for what no sequence has.
    mutating func checkStrayTokens(_ read: borrowing ReadTransaction) throws -> [Suspect] {
        var found: [Suspect] = []
        var table = TokenTable()
        for (id, record) in try readableRecords(read) {
            let entry = TokenTable.Entry(record)
            _ = table.put(id, entry.space, entry.record)
        }
        let open = Set(table.entries.values.compactMap(\.record.openChunk))
        var (chunks, annotations) = (0, Set<UInt64>())
        try scan(tables.tokens, read, &found) { bytes, _ in
            guard let key = TokenChunk.Key(bytes) else { return false }
            if !open.contains(key), !table.isUsed(key) { chunks += 1 }
            return true
        }
        try scan(tables.annotations, read, &found) { bytes, _ in
            guard let number = AnnotationRecord.number(bytes) else { return false }
            if !table.isUsed(annotation: number) { annotations.insert(number) }
            return true
        }
        if chunks + annotations.count > 0 {
            let message =
                "\(chunks) chunks of ids and \(annotations.count) annotations on \(rank) belong to no sequence: "
                + (hasDamagedRecord
                    ? "a damaged record may be the only reference to them."
                    : "they are deleted at the rank's next start at the latest.")
            found.append(Suspect(finding: StoreFinding(.strayTokens, message)))
        }
        phase = .done
        return found
    }
}
