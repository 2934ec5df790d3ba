internal import DCPCore

/// One sequence: value of the table `sequences` under the sequence id (8 bytes).
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | model id |
/// | 4 | 4 | 1 when it is a fork, else 0 |
/// | 8 | 8 | parent's sequence id; 0 when not a fork |
/// | 16 | 8 | length it was forked at, global; 0 when not a fork |
/// | 24 | 8 | committed length, global |
/// | 32 | 8 | writer: the number its next sealed block is written under |
/// | 40 | 4 | n, entries of the lineage |
/// | 44 | 4 | 0 |
/// | 48 + 16 i | 8 | entry i: writer |
/// | 56 + 16 i | 4 | entry i: end block; blocks from the previous entry's end up to it are this writer's |
/// | 60 + 16 i | 4 | 0 |
/// | 48 + 16 n | 8 | last change: rises with each change of a sequence in this store |
/// | 56 + 16 n | 8 | claim: the latest when it was changed last; 0 for none |
/// | 64 + 16 n | 4 | CRC-32C of key and bytes 0..<64 + 16 n |
struct SequenceRecord {
    /// Where a fork came from. Kept so that a repeated fork is recognised.
    struct Origin: Equatable, Sendable {
        var parent: SequenceID
        var length: Int
    }

    var model: ModelID
    var origin: Origin?
    var committed: Int
    var lineage: Lineage
    /// In which order sequences were changed: what is left of the order of their uses when no process remembers it.
    var lastChange: UInt64
    /// Whose the tokens are: a client that held an older one finds out that another has been here since.
    var claim: Claim

    static func key(_ id: SequenceID) -> [UInt8] { KeyBytes.of(id.value) }

    func encoded(_ id: SequenceID) -> [UInt8] {
        var record = RecordBytes()
        record.append(model.value)
        record.append(UInt32(origin == nil ? 0 : 1))
        record.append(origin?.parent.value ?? 0)
        record.append(UInt64(origin?.length ?? 0))
        record.append(UInt64(committed))
        record.append(lineage.writer)
        record.append(UInt32(lineage.entries.count))
        record.append(UInt32(0))
        for entry in lineage.entries {
            record.append(entry.writer)
            record.append(UInt32(entry.endBlock))
            record.append(UInt32(0))
        }
        record.append(lastChange)
        record.append(claim.value)
        return record.sealed(key: Self.key(id))
    }
}

extension SequenceRecord {
    init?(_ id: SequenceID, _ value: UnsafeRawBufferPointer) {
        guard var reader = RecordReader(key: Self.key(id), value), let model = reader.next(UInt32.self),
            let isFork = reader.next(UInt32.self), let parent = reader.next(UInt64.self),
            let forkLength = reader.next(UInt64.self), let committed = reader.next(UInt64.self),
            let writer = reader.next(UInt64.self), let count = reader.next(UInt32.self),
            reader.next(UInt32.self) != nil, let length = Int(exactly: committed),
            let originLength = Int(exactly: forkLength)
        else { return nil }
        var entries: [Lineage.Entry] = []
        for _ in 0..<count {
            guard let writer = reader.next(UInt64.self), let end = reader.next(UInt32.self),
                reader.next(UInt32.self) != nil, Int(end) > (entries.last?.endBlock ?? 0)
            else { return nil }
            entries.append(Lineage.Entry(writer: writer, endBlock: Int(end)))
        }
        guard let change = reader.next(UInt64.self), let claim = reader.next(UInt64.self), reader.isAtEnd else {
            return nil
        }
        lastChange = change
        self.claim = Claim(claim)
        self.model = ModelID(model)
        origin = isFork == 1 ? Origin(parent: SequenceID(parent), length: originLength) : nil
        self.committed = length
        lineage = Lineage(writer: writer, entries: entries)
    }
}
