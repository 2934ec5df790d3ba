// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCore
internal import DCPStore

/// Where inside a sequence the next batch begins: the parts of it come in this order.
struct SequencePlace: Sendable {
    var layer = 0
    var block = 0
    var isBegun = false
}

/// The checked blocks of one writer. Forks share blocks: each is read once, and its damage applies to every sequence
/// that refers to it.
struct WriterCheck: Sendable {
    /// By layer, the first block that has not been read.
    var next: [Int]
    /// By layer and block.
    var damage: [Place: (kind: StoreFinding.Kind, what: String)] = [:]

    struct Place: Hashable, Sendable {
        var layer: Int
        var block: Int
    }
}

extension StoreCheck {
    /// Checks sequences until a batch is full.
    mutating func checkSequences(from start: Int, _ read: borrowing ReadTransaction) throws -> [Suspect] {
        var found: [Suspect] = []
        var index = start
        let stop = progress.byteCount + batchByteCount
        var visited = 0
        while index < sequences.count {
            guard progress.byteCount < stop, visited < batchEntries else {
                phase = .sequences(index)
                return found
            }
            visited += 1
            guard try check(sequences[index], until: stop, read, &found) else { continue }
            progress.sequences += 1
            place = SequencePlace()
            index += 1
        }
        progress.byteCount = min(progress.byteCount, progress.byteCountTotal)
        phase = only == nil ? .blocks([]) : .done
        return found
    }

    /// - Returns: false when the batch is full before the sequence's end.
    private mutating func check(
        _ id: SequenceID, until stop: Int, _ read: borrowing ReadTransaction, _ found: inout [Suspect]
    ) throws -> Bool {
        // Closed since the list was made.
        guard try read.get(tables.sequences, StoredSequence.key(id)) != nil else { return true }
        guard let (record, model) = try record(of: id, read) else {
            hasDamagedRecord = true
            let message =
                "The record of \(id) on \(rank) fails its checksum, or does not agree with its model and length; close the "
                + "sequence and prefill it again."
            found.append(Suspect(finding: StoreFinding(.record, sequence: id, intactLength: 0, message)))
            return true
        }
        if !place.isBegun { try checkWriters(id, record, read, &found) }
        place.isBegun = true
        while place.layer < model.layers {
            for (writer, range) in record.lineage.ranges where range.upperBound > place.block {
                guard
                    try checkBlocks(
                        of: id, model, writer, max(range.lowerBound, place.block)..<range.upperBound, until: stop, read,
                        &found)
                else { return false }
            }
            place.layer += 1
            place.block = 0
        }
        try checkRows(of: id, record, model, read, &found)
        try checkTokens(of: id, record.tokens, read, &found)
        return true
    }

    /// A writer number that would be given out again would let new blocks take the keys of old ones.
    private func checkWriters(
        _ id: SequenceID, _ record: StoredSequence, _ read: borrowing ReadTransaction, _ found: inout [Suspect]
    ) throws {
        guard let next = try read.number(Counter.writer, tables.meta)
        else { return }
        let used = [record.lineage, record.rows].flatMap { $0.entries.map(\.writer) + [$0.writer] }
        guard let highest = used.max(), highest >= next else { return }
        let message =
            "The counter `writer` of \(rank) is \(next), but \(id) uses writer \(highest): new blocks would "
            + "overwrite old ones; restore the store."
        found.append(Suspect(finding: StoreFinding(.superblock, message)))
    }

    // MARK: Blocks

    /// Checks one layer's blocks of one writer.
    /// - Returns: false when the batch is full first.
    private mutating func checkBlocks(
        of id: SequenceID, _ model: ModelEntry, _ writer: UInt64, _ blocks: Range<Int>, until stop: Int,
        _ read: borrowing ReadTransaction, _ found: inout [Suspect]
    ) throws -> Bool {
        let layer = place.layer
        var known =
            writers.removeValue(forKey: writer) ?? WriterCheck(next: Array(repeating: 0, count: model.layers))
        defer { writers[writer] = known }
        for index in blocks {
            if index >= known.next[layer] {
                guard progress.byteCount < stop else { return false }
                let key = BlockKey(model: model.id, writer: writer, layer: layer, index: index)
                if let damage = try damage(of: key, model, read) {
                    known.damage[WriterCheck.Place(layer: layer, block: index)] = damage
                }
                known.next[layer] = index + 1
                progress.blocks += 1
                progress.byteCount += model.panels[layer].payloadByteCount
            }
            if let damage = known.damage[WriterCheck.Place(layer: layer, block: index)] {
                let start = shard.start(ofBlock: index)
                let finding = StoreFinding(
                    damage.kind, sequence: id, layer: layer, block: index,
                    intactLength: shard.position(of: start).value,
                    "Block \(index) of layer \(layer) of \(id) on \(rank) \(damage.what)")
                found.append(Suspect(finding: finding, start: start, writer: writer))
            }
            place.block = index + 1
        }
        return true
    }

    private func damage(
        of key: BlockKey, _ model: ModelEntry, _ read: borrowing ReadTransaction
    ) throws -> (StoreFinding.Kind, String)? {
        let byteCount = model.blockByteCounts[key.layer]
        guard let value = try read.get(tables.blocks, key.bytes) else {
            return try damageOfPieces(of: key, model, byteCount: byteCount, read)
        }
        guard value.count == byteCount else { return (.block, "has \(value.count) bytes, not \(byteCount).") }
        guard let address = BlockAddress(value, byteCount: byteCount) else {
            return (.block, "is not aligned to \(BlockRecord.payloadAlignment) bytes.")
        }
        guard let payload = address.payload else { return nil }
        MappedPages.willNeed(payload, byteCount: model.panels[key.layer].payloadByteCount)
        return BlockRecord.damage(key, payload: payload, panels: model.panels[key.layer]).map { (.block, $0) }
    }

    private func damageOfPieces(
        of key: BlockKey, _ model: ModelEntry, byteCount: Int, _ read: borrowing ReadTransaction
    ) throws -> (StoreFinding.Kind, String)? {
        let damage = try read.withValue(tables.blocks, key.bytes) { value -> (StoreFinding.Kind, String)? in
            guard value.count == byteCount, let base = value.baseAddress else {
                return (.block, "has \(value.count) bytes in its pieces, not \(byteCount).")
            }
            let payload = base + BlockRecord.headerByteCount
            return BlockRecord.damage(key, payload: payload, panels: model.panels[key.layer]).map { (.block, $0) }
        }
        return damage ?? (.missingBlock, "is missing, entirely or in part.")
    }

    // MARK: Rows

    /// The rows of the open block: all there, and good. At most a block's worth, so always in one batch.
    private mutating func checkRows(
        of id: SequenceID, _ record: StoredSequence, _ model: ModelEntry, _ read: borrowing ReadTransaction,
        _ found: inout [Suspect]
    ) throws {
        for (writer, index) in record.rows.rowPlaces {
            let key = TailRecord.key(writer: writer, localIndex: index)
            let isGood = try read.withValue(tables.tail, key) {
                TailRecord.rows(key: key, $0, layout: model.tail) != nil
            }
            progress.rows += 1
            progress.byteCount += model.rowByteCount
            if isGood == true { continue }
            let position = shard.position(of: index)
            let finding = StoreFinding(
                isGood == nil ? .missingRow : .row, sequence: id, block: record.lineage.sealedBlocks,
                intactLength: position.value,
                "The row of token \(position) of \(id) on \(rank) "
                    + (isGood == nil ? "is missing." : "fails its checksum, or has a wrong size."))
            found.append(Suspect(finding: finding, start: index))
        }
    }
}
