// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPStore

/// The contents of all readable records, from one transaction.
struct References: Sendable {
    var blocks = LineageTable()
    var rows = LineageTable()
    var transaction: UInt64
}

/// Values to which no sequence refers.
extension StoreCheck {
    /// Scans the keys of `blocks` for those that no lineage covers.
    mutating func checkReferences(from start: [UInt8], _ read: borrowing ReadTransaction) throws -> [Suspect] {
        var found: [Suspect] = []
        var keys: [BlockKey] = []
        let next = try scan(tables.blocks, from: start, entriesMax: batchEntries, read, &found) { bytes, _ in
            guard let key = BlockKey(bytes) else { return false }
            // Once for all its pieces.
            if key != keys.last { keys.append(key) }
            return true
        }
        let isInUse = isInUse
        let stray = try unreferenced(keys, read) { references, key in
            references.blocks.isCovered(writer: key.writer, block: key.index) || isInUse?(key) == true
        }
        var unreferenced: [UInt64: Int] = [:]
        for key in stray { unreferenced[key.writer, default: 0] += 1 }
        for (writer, count) in unreferenced.sorted(by: { $0.key < $1.key }) {
            let message = "\(count) blocks of writer \(writer) on \(rank) belong to no sequence: \(leftoversRemedy)."
            found.append(Suspect(finding: StoreFinding(.unreferencedBlocks, message)))
        }
        phase = next.map { .blocks($0) } ?? .rows([])
        return found
    }

    /// Scans the keys of `tail` for rows that belong to no open block.
    mutating func checkStrays(from start: [UInt8], _ read: borrowing ReadTransaction) throws -> [Suspect] {
        var found: [Suspect] = []
        var places: [(writer: UInt64, localIndex: LocalIndex)] = []
        let next = try scan(tables.tail, from: start, entriesMax: batchEntries, read, &found) { key, _ in
            guard let row = TailRecord.place(key) else { return false }
            if places.last.map({ $0 == row }) != true { places.append(row) }
            return true
        }
        let rows = try unreferenced(places, read) { references, row in
            references.rows.isCovered(writer: row.writer, block: row.localIndex.value)
        }
        for (writer, index) in rows {
            if let known = strays, known.writer != writer { report(known, &found) }
            if strays?.writer != writer { strays = (writer, []) }
            if strays?.rows.last != index { strays?.rows.append(index) }
        }
        if next == nil, let known = strays { report(known, &found) }
        phase = next.map { .rows($0) } ?? .tokens
        if case .tokens = phase { references = nil }
        return found
    }

    /// Those that no record refers to.
    ///
    /// The records are read once, and again only where something seems to belong to none and they may have changed
    /// since: with a batch for every 65,536 keys, the sequences of each would be read for all the others. Values
    /// released by a record meanwhile are not findings: they wait for deletion.
    private mutating func unreferenced<Key>(
        _ keys: [Key], _ read: borrowing ReadTransaction, isReferred: (References, Key) -> Bool
    ) throws -> [Key] {
        if references == nil { references = try references(read) }
        var stray = keys.filter { !isReferred(references!, $0) }
        if !stray.isEmpty, references!.transaction != read.number {
            references = try references(read)
            stray = stray.filter { !isReferred(references!, $0) }
        }
        return stray
    }

    private func references(_ read: borrowing ReadTransaction) throws -> References {
        var references = References(transaction: read.number)
        for (id, record) in try readableRecords(read) {
            references.blocks[id] = record.lineage
            references.rows[id] = record.rows
        }
        return references
    }

    private var leftoversRemedy: String {
        hasDamagedRecord
            ? "a damaged record may be the only reference to them"
            : "they are deleted at the rank's next start at the latest"
    }

    private mutating func report(_ stray: (writer: UInt64, rows: [LocalIndex]), _ found: inout [Suspect]) {
        strays = nil
        let shown = stray.rows.prefix(8).map(\.description).joined(separator: ", ")
        let message =
            "\(stray.rows.count) rows of writer \(stray.writer) on \(rank) belong to no sequence (local tokens \(shown)"
            + (stray.rows.count > 8 ? " ...)" : ")") + ": \(leftoversRemedy)."
        found.append(Suspect(finding: StoreFinding(.strayRows, message)))
    }
}
