internal import DCPCore
internal import DCPStore

/// What no sequence refers to.
extension StoreCheck {
    /// Scans the keys of `blocks` for those that no lineage covers. Records and keys are of one transaction.
    mutating func checkReferences(from start: [UInt8], _ read: borrowing ReadTransaction) throws -> [Suspect] {
        var found: [Suspect] = []
        let lineages = try lineages(\.lineage, read)
        var unreferenced: [UInt64: Int] = [:]
        var last: BlockKey?
        let next = try scan(tables.blocks, from: start, entriesMax: batchEntries, read, &found) { bytes, _ in
            guard let key = BlockKey(bytes) else { return false }
            // Once for all its pieces.
            if key != last, !lineages.isCovered(writer: key.writer, block: key.index), isInUse?(key) != true {
                unreferenced[key.writer, default: 0] += 1
            }
            last = key
            return true
        }
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
        let lineages = try lineages(\.rows, read)
        var rows: [(writer: UInt64, localIndex: Int)] = []
        let next = try scan(tables.tail, from: start, entriesMax: batchEntries, read, &found) { key, _ in
            guard let row = TailRecord.place(key) else { return false }
            if rows.last.map({ $0 == row }) != true, !lineages.isCovered(writer: row.writer, block: row.localIndex) {
                rows.append(row)
            }
            return true
        }
        for (writer, index) in rows {
            if let known = strays, known.writer != writer { report(known, &found) }
            if strays?.writer != writer { strays = (writer, []) }
            if strays?.rows.last != index { strays?.rows.append(index) }
        }
        if next == nil, let known = strays { report(known, &found) }
        phase = next.map { .rows($0) } ?? .tokens
        return found
    }

    /// What all records say that can be read.
    private func lineages(
        _ lineage: KeyPath<SequenceRecord, Lineage>, _ read: borrowing ReadTransaction
    ) throws -> LineageTable {
        var lineages = LineageTable()
        for (id, record) in try readableRecords(read) { lineages[id] = record[keyPath: lineage] }
        return lineages
    }

    private var leftoversRemedy: String {
        hasDamagedRecord
            ? "a damaged record may be the only one that names them"
            : "they wait for deletion, at the latest at the rank's next start"
    }

    private mutating func report(_ stray: (writer: UInt64, rows: [Int]), _ found: inout [Suspect]) {
        strays = nil
        let shown = stray.rows.prefix(8).map(String.init).joined(separator: ", ")
        let message =
            "\(stray.rows.count) rows of writer \(stray.writer) on \(rank) belong to no sequence (local tokens \(shown)"
            + (stray.rows.count > 8 ? " ...)" : ")") + ": \(leftoversRemedy)."
        found.append(Suspect(finding: StoreFinding(.strayRows, message)))
    }
}
