// SPDX-License-Identifier: Apache-2.0

internal import DCPCore

/// The token ids and annotations of a cache's sequences: their users and the index of prefixes.
///
/// It is a value without I/O, and changes only after the store's change has been committed.
struct TokenTable: Sendable {
    struct Entry: Sendable {
        var space: Space
        var record: TokenRecord

        init(space: Space, record: TokenRecord) {
            self.space = space
            self.record = record
        }

        init(_ sequence: StoredSequence) {
            self.init(space: Space(model: sequence.model, scope: sequence.scope), record: sequence.tokens)
        }
    }

    /// Sequences find each other's prefixes inside one.
    struct Space: Hashable, Sendable {
        var model: ModelID
        var scope: String
    }

    private(set) var entries: [SequenceID: Entry] = [:]
    private var trees: [Space: PrefixTree] = [:]
    /// Full chunks, and annotations as lineages of one block.
    private var chunkUsers = LineageTable()
    private var annotationUsers = LineageTable()

    subscript(_ id: SequenceID) -> TokenRecord? { entries[id]?.record }

    func tree(_ space: Space) -> PrefixTree? { trees[space] }

    /// Whether its prefixes can be found.
    func isIndexed(_ id: SequenceID) -> Bool { entries[id].map { trees[$0.space]?.contains(id) ?? false } ?? false }

    /// Sequences with damaged ids, which cannot be found by them.
    var damaged: [SequenceID] { entries.filter { $0.value.record.count > 0 && !isIndexed($0.key) }.keys.sorted() }

    func isUsed(_ key: TokenChunk.Key) -> Bool { chunkUsers.isCovered(writer: key.writer, block: key.index) }
    func isUsed(annotation number: UInt64) -> Bool { annotationUsers.isCovered(writer: number, block: 0) }

    /// Gives a sequence what it has from now on. Its place in the tree is another matter.
    /// - Returns: the values that are no longer referenced.
    mutating func put(_ id: SequenceID, _ space: Space, _ record: TokenRecord) -> Doomed {
        let former = entries.updateValue(Entry(space: space, record: record), forKey: id)?.record
        return replace(id, former, by: record)
    }

    mutating func remove(_ id: SequenceID) -> Doomed {
        guard let entry = entries[id] else { return Doomed() }
        changeTree(entry.space) { $0.remove(id) }
        entries[id] = nil
        return replace(id, entry.record, by: nil)
    }

    /// Its ids cannot be read.
    mutating func hide(_ id: SequenceID) {
        guard let entry = entries[id] else { return }
        changeTree(entry.space) { $0.remove(id) }
    }

    /// Changes the tree of a sequence; a sequence found unreadable is hidden, and the change continues without it.
    mutating func index(
        _ id: SequenceID, _ reader: borrowing TokenReader,
        _ change: (inout PrefixTree, borrowing TokenReader) throws -> Void
    ) {
        guard let space = entries[id]?.space else { return }
        // As often as there are sequences to hide.
        while true {
            do {
                try changeTree(space) { try change(&$0, reader) }
                return
            } catch {
                let unreadable = (error as? UnreadableTokens)?.sequence ?? id
                hide(unreadable)
                if unreadable == id { return }
            }
        }
    }

    private mutating func changeTree(_ space: Space, _ change: (inout PrefixTree) throws -> Void) rethrows {
        defer { if trees[space]?.isEmpty == true { trees[space] = nil } }
        try change(&trees[space, default: PrefixTree()])
    }

    private mutating func replace(_ id: SequenceID, _ former: TokenRecord?, by record: TokenRecord?) -> Doomed {
        var doomed = Doomed()
        doomed.chunks = chunkUsers.replace(id, by: record?.lineage).map {
            DoomedChunks(writer: $0.writer, chunks: $0.blocks)
        }
        if let open = former?.openChunk, open.writer != record?.lineage.writer {
            doomed.chunks.append(DoomedChunks(writer: open.writer, chunks: open.index..<open.index + 1))
        }
        let byteCount = former?.annotation?.byteCount ?? 0
        let annotation = record?.annotation.map {
            Lineage(writer: $0.number, entries: [Lineage.Entry(writer: $0.number, endBlock: 1)])
        }
        doomed.annotations = annotationUsers.replace(id, by: annotation).map {
            DoomedAnnotation(number: $0.writer, byteCount: byteCount)
        }
        return doomed
    }
}
