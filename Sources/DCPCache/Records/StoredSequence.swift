// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import Synchronization

/// One sequence: value of the table `sequences` under the sequence id (8 bytes).
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | model id |
/// | 4 | 1 | 1 when it is a fork, else 0 |
/// | 5 | 1 | 1 while it is pinned, else 0 |
/// | 6 | 1 | 1 while it is kept, else 0 |
/// | 7 | 1 | priority, signed |
/// | 8 | 8 | parent's sequence id; 0 when not a fork |
/// | 16 | 8 | length it was forked at, global; 0 when not a fork |
/// | 24 | 8 | committed length, global |
/// | 32 | 8 | writer: the number its next sealed block is written under |
/// | 40 | 4 | n, entries of the lineage |
/// | 44 | 4 | time to live, seconds; 0 for never |
/// | 48 + 16 i | 8 | entry i: writer |
/// | 56 + 16 i | 4 | entry i: end block; blocks from the previous entry's end up to it are this writer's |
/// | 60 + 16 i | 4 | 0 |
/// | 48 + 16 n | 8 | last change: rises with each change of a sequence in this store |
/// | 56 + 16 n | 8 | claim: the latest when it was changed last; 0 for none |
/// | 64 + 16 n | 8 | ids: as many as committed tokens, or 0 |
/// | 72 + 16 n | 8 | ids' writer: the number its next chunk is written under |
/// | 80 + 16 n | 4 | m, entries of the lineage of the full chunks |
/// | 84 + 16 n | 4 | s, bytes of the scope |
/// | 88 + 16 n | 8 | number of the annotation; 0 for none |
/// | 96 + 16 n | 8 | committed length that it was given at; 0 for none |
/// | 104 + 16 n | 4 | bytes of the annotation; 0 for none |
/// | 108 + 16 n | 4 | t, bytes of the name |
/// | 112 + 16 n | 8 | rows' writer: the number its next row is written under |
/// | 120 + 16 n | 8 | first local token of the open block |
/// | 128 + 16 n | 4 | r, entries of the lineage of the open block's rows |
/// | 132 + 16 n | 4 | 0 |
/// | 136 + 16 n | 16 m | the lineage's entries, as above, in chunks |
/// | 136 + 16 (n + m) | 16 r | the lineage's entries, as above, in rows from the open block's first on |
/// | 136 + 16 (n + m + r) | s | scope, UTF-8 |
/// | 136 + 16 (n + m + r) + s | t | name, UTF-8 |
/// | 136 + 16 (n + m + r) + s + t | 4 | CRC-32C of key and all bytes before |
struct StoredSequence {
    /// Where a fork came from. Kept so that a repeated fork is recognised.
    struct Origin: Equatable, Sendable {
        var parent: SequenceID
        var length: Position
    }

    var model: ModelID
    var scope: String
    /// Its name and retention, so that a lost directory can be rebuilt from the stores.
    var name: String
    var retention: Retention
    var origin: Origin?
    var committed: Position
    var lineage: Lineage
    /// Of the open block's rows, by local index.
    var rows: Lineage
    var tokens: TokenRecord
    /// In which order sequences were changed: what is left of the order of their uses when no process remembers it.
    var lastChange: UInt64
    /// Whose the tokens are: a client that held an older one finds out that another has been here since.
    var claim: Claim

    init(
        _ sequence: SequenceCache, committed: Position, lineage: Lineage, rows: Lineage, tokens: TokenRecord,
        lastChange: UInt64, claim: Claim
    ) {
        (model, scope, name, origin) = (sequence.model.id, sequence.scope, sequence.name, sequence.origin)
        retention = sequence.core.withLock(\.retention)
        self.committed = committed
        self.lineage = lineage
        self.rows = rows
        self.tokens = tokens
        self.lastChange = lastChange
        self.claim = claim
    }

    static func key(_ id: SequenceID) -> [UInt8] { KeyBytes.of(id.value) }

    /// Whether its lineages match its length.
    func agrees(with shard: Shard) -> Bool {
        let blocks = shard.fullBlocks(of: committed)
        return lineage.sealedBlocks == blocks && rows.rowStart == shard.start(ofBlock: blocks)
            && rows.rowEnd == shard.end(of: committed)
    }

    func encoded(_ id: SequenceID) -> [UInt8] {
        var record = RecordBytes()
        record.append(model.value)
        record.append(UInt8(origin == nil ? 0 : 1))
        record.append(UInt8(retention.isPinned ? 1 : 0))
        record.append(UInt8(retention.isKept ? 1 : 0))
        record.append(retention.priority)
        record.append(origin?.parent.value ?? 0)
        record.append(UInt64(origin?.length.value ?? 0))
        record.append(UInt64(committed.value))
        record.append(lineage.writer)
        record.append(UInt32(lineage.entries.count))
        record.append(retention.timeToLive)
        record.append(lineage.entries)
        record.append(lastChange)
        record.append(claim.value)
        record.append(UInt64(tokens.count))
        record.append(tokens.lineage.writer)
        record.append(UInt32(tokens.lineage.entries.count))
        record.append(UInt32(scope.utf8.count))
        record.append(tokens.annotation?.number ?? 0)
        record.append(UInt64(tokens.annotation?.length.value ?? 0))
        record.append(UInt32(tokens.annotation?.byteCount ?? 0))
        record.append(UInt32(name.utf8.count))
        record.append(rows.writer)
        record.append(UInt64(rows.start))
        record.append(UInt32(rows.entries.count))
        record.append(UInt32(0))
        record.append(tokens.lineage.entries)
        record.append(rows.entries, from: rows.start)
        record.append(scope)
        record.append(name)
        return record.sealed(key: Self.key(id))
    }
}

extension RecordBytes {
    fileprivate mutating func append(_ entries: [Lineage.Entry], from start: Int = 0) {
        for entry in entries {
            append(entry.writer)
            append(UInt32(entry.endBlock - start))
            append(UInt32(0))
        }
    }
}

extension RecordReader {
    fileprivate mutating func nextEntries(_ count: UInt32, from start: Int = 0) -> [Lineage.Entry]? {
        var entries: [Lineage.Entry] = []
        for _ in 0..<count {
            guard let writer = next(UInt64.self), let end = next(UInt32.self), next(UInt32.self) != nil,
                start + Int(end) > (entries.last?.endBlock ?? start)
            else { return nil }
            entries.append(Lineage.Entry(writer: writer, endBlock: start + Int(end)))
        }
        return entries
    }

    /// The ids and annotation of a record, and the following tail rows, scope and name.
    fileprivate mutating func nextTokens(
        committed: Position
    ) -> (tokens: TokenRecord, rows: Lineage, scope: String, name: String)? {
        guard let count = next(UInt64.self), let writer = next(UInt64.self), let entryCount = next(UInt32.self),
            let scopeByteCount = next(UInt32.self), let number = next(UInt64.self), let length = next(UInt64.self),
            let byteCount = next(UInt32.self), let nameByteCount = next(UInt32.self),
            // A shard is no longer than its sequence.
            let rowsWriter = next(UInt64.self), let first = next(UInt64.self), first <= committed.value,
            let rowsEntryCount = next(UInt32.self), next(UInt32.self) != nil,
            let entries = nextEntries(entryCount), let rowsEntries = nextEntries(rowsEntryCount, from: Int(first)),
            let scope = nextText(scopeByteCount),
            let name = nextText(nameByteCount),
            count == 0 || count == committed.value
        else { return nil }
        var tokens = TokenRecord(count: Int(count), lineage: Lineage(writer: writer, entries: entries))
        guard tokens.fullChunks == tokens.count / TokenChunk.tokens, length <= committed.value else { return nil }
        if number > 0 {
            tokens.annotation = TokenRecord.Annotation(
                number: number, length: Position(Int(length)), byteCount: Int(byteCount))
        }
        return (tokens, Lineage(writer: rowsWriter, entries: rowsEntries, from: Int(first)), scope, name)
    }

    private mutating func nextText(_ byteCount: UInt32) -> String? {
        nextBytes(Int(byteCount)).flatMap { String(validating: $0, as: UTF8.self) }
    }

    fileprivate mutating func nextFlag() -> Bool? {
        guard let byte = next(UInt8.self), byte <= 1 else { return nil }
        return byte == 1
    }
}

extension StoredSequence {
    init?(_ id: SequenceID, _ value: UnsafeRawBufferPointer) {
        guard var reader = RecordReader(key: Self.key(id), value), let model = reader.next(UInt32.self),
            let isFork = reader.nextFlag(), let isPinned = reader.nextFlag(), let isKept = reader.nextFlag(),
            let priority = reader.next(Int8.self), let parent = reader.next(UInt64.self),
            let forkLength = reader.next(UInt64.self), let committed = reader.next(UInt64.self),
            let writer = reader.next(UInt64.self), let count = reader.next(UInt32.self),
            let timeToLive = reader.next(UInt32.self), let length = Int(exactly: committed).map(Position.init),
            let originLength = Int(exactly: forkLength).map(Position.init), let entries = reader.nextEntries(count),
            let change = reader.next(UInt64.self), let claim = reader.next(UInt64.self),
            let (tokens, rows, scope, name) = reader.nextTokens(committed: length), reader.isAtEnd
        else { return nil }
        self.tokens = tokens
        self.rows = rows
        self.scope = scope
        self.name = name
        retention = Retention()
        (retention.isPinned, retention.isKept) = (isPinned, isKept)
        (retention.priority, retention.timeToLive) = (priority, timeToLive)
        lastChange = change
        self.claim = Claim(claim)
        self.model = ModelID(model)
        origin = isFork ? Origin(parent: SequenceID(parent), length: originLength) : nil
        self.committed = length
        lineage = Lineage(writer: writer, entries: entries)
    }
}
