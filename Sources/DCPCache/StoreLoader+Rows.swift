// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPStore

extension StoreLoader {
    /// Rows of no open block, which a seal, a cut or a close left to be deleted later.
    ///
    /// Two look-ups for each writer that has rows; the pages of the tree have all been read by the check before.
    func strayRows(_ read: borrowing ReadTransaction, _ lineages: LineageTable) throws -> [DoomedTailRows] {
        var stray: [DoomedTailRows] = []
        var start: [UInt8] = []
        while true {
            var next: [UInt8]?
            try read.scan(tables.tail, from: start) { key, value in
                guard let (writer, index) = TailRecord.place(key) else { return true }
                // Past those that belong to a sequence at once.
                if let end = lineages.end(ofCover: writer, block: index.value) {
                    next = TailRecord.key(writer: writer, localIndex: LocalIndex(end))
                    return false
                }
                let pages = TailRecord.piece(key).map { $0 + 1 } ?? environment.runPages(valueByteCount: value.count)
                Self.append(writer, index, pages: pages, to: &stray)
                return true
            }
            guard let place = next else { return stray }
            start = place
        }
    }

    private static func append(_ writer: UInt64, _ index: LocalIndex, pages: Int, to stray: inout [DoomedTailRows]) {
        guard let last = stray.last, last.writer == writer,
            last.tokens.upperBound == index || last.tokens.last == index
        else { return stray.append(DoomedTailRows(writer: writer, tokens: index..<index + 1, pages: pages)) }
        stray[stray.count - 1].tokens = last.tokens.lowerBound..<index + 1
        stray[stray.count - 1].pages = max(last.pages, pages)
    }
}
