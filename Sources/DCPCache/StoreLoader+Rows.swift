internal import DCPCore
internal import DCPStore

extension StoreLoader {
    /// Rows outside of their sequence's open block, which a seal, a cut or a close left to be deleted later.
    ///
    /// Two look-ups for each sequence that has rows; the pages of the tree have all been read by the check before.
    func strayRows(
        _ read: borrowing ReadTransaction, _ records: [(SequenceID, SequenceRecord)]
    ) throws -> [DoomedRows] {
        let layout = cluster.layout
        var open: [SequenceID: Range<Int>] = [:]
        for (id, record) in records {
            let local = layout.localLength(ofRank: cluster.contextRank(of: rank), length: record.committed)
            open[id] = record.lineage.sealedBlocks * layout.blockTokens..<local
        }
        var stray: [DoomedRows] = []
        var start: [UInt8] = []
        while true {
            var next: [UInt8]?
            try read.scan(tables.tail, from: start) { key, value in
                guard let (id, index) = TailRecord.place(key) else { return true }
                let rows = open[id] ?? 0..<0
                // Past those that belong to the sequence at once.
                if rows.contains(index) {
                    next = TailRecord.key(id, localIndex: rows.upperBound)
                    return false
                }
                let pages = TailRecord.piece(key).map { $0 + 1 } ?? environment.runPages(valueByteCount: value.count)
                Self.append(id, index, pages: pages, to: &stray)
                return true
            }
            guard let place = next else { return stray }
            start = place
        }
    }

    private static func append(_ id: SequenceID, _ index: Int, pages: Int, to stray: inout [DoomedRows]) {
        guard let last = stray.last, last.sequence == id,
            last.tokens.upperBound == index || last.tokens.last == index
        else { return stray.append(DoomedRows(sequence: id, tokens: index..<index + 1, pages: pages)) }
        stray[stray.count - 1].tokens = last.tokens.lowerBound..<index + 1
        stray[stray.count - 1].pages = max(last.pages, pages)
    }
}
