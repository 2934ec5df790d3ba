internal import DCPCore
internal import DCPStore

/// What no sequence refers to.
extension StoreCheck {
    /// Scans the keys of `blocks` for those that no lineage covers. Records and keys are of one transaction.
    mutating func checkReferences(from start: [UInt8], _ read: borrowing ReadTransaction) throws -> [Suspect] {
        var found: [Suspect] = []
        var lineages = LineageTable()
        var ids: [SequenceID] = []
        var ignored: [Suspect] = []
        try scan(tables.sequences, read, &ignored) { key, _ in
            if key.count == 8 { ids.append(SequenceID(RecordReader.key(key, at: 0))) }
            return true
        }
        for id in ids {
            guard let value = try read.get(tables.sequences, SequenceRecord.key(id)) else { continue }
            lineages[id] = SequenceRecord(id, value)?.lineage
        }
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
            let remedy =
                hasDamagedRecord
                ? "a damaged record may be the only one that names them"
                : "they wait for deletion, at the latest at the rank's next start"
            let message = "\(count) blocks of writer \(writer) on \(rank) belong to no sequence: \(remedy)."
            found.append(Suspect(finding: StoreFinding(.unreferencedBlocks, message)))
        }
        phase = next.map { .blocks($0) } ?? .rows([])
        return found
    }

    /// Scans the keys of `tail` for rows before and behind the open block of their sequence, or of none.
    mutating func checkStrays(from start: [UInt8], _ read: borrowing ReadTransaction) throws -> [Suspect] {
        var found: [Suspect] = []
        var rows: [(SequenceID, Int)] = []
        let next = try scan(tables.tail, from: start, entriesMax: batchEntries, read, &found) { key, _ in
            guard let row = TailRecord.place(key) else { return false }
            if rows.last.map({ $0 == row }) != true { rows.append(row) }
            return true
        }
        var place: (id: SequenceID, open: Range<Int>?)?
        for (id, index) in rows {
            if place?.id != id {
                // Of a damaged record nobody can say which rows it has.
                let value = try read.get(tables.sequences, SequenceRecord.key(id))
                let record = try record(of: id, read)?.record
                let open = record.map {
                    $0.lineage.sealedBlocks * blockTokens..<localLength($0.committed)
                }
                place = (id, value == nil ? 0..<0 : open)
            }
            guard let open = place?.open, !open.contains(index) else { continue }
            if let known = strays, known.sequence != id { report(known, &found) }
            if strays?.sequence != id { strays = (id, []) }
            strays?.rows.append(index)
        }
        if next == nil, let known = strays { report(known, &found) }
        phase = next.map { .rows($0) } ?? .tokens
        return found
    }

    private mutating func report(_ stray: (sequence: SequenceID, rows: [Int]), _ found: inout [Suspect]) {
        strays = nil
        let shown = stray.rows.prefix(8).map(String.init).joined(separator: ", ")
        let message =
            "\(stray.rows.count) rows of \(stray.sequence) on \(rank) are outside its open block (local tokens \(shown)"
            + (stray.rows.count > 8 ? " ...); they are" : "); they are") + " never read."
        found.append(Suspect(finding: StoreFinding(.strayRows, sequence: stray.sequence, message)))
    }
}
