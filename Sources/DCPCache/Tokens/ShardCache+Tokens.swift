// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import DCPStore
internal import Synchronization

/// Token ids and annotations: what is stored, and who begins with which ids.
extension ShardCache {
    /// The longest prefix of some ids that a sequence of a model and scope begins with, and has committed.
    ///
    /// The ids have been compared with the stored ones. Damaged sequences are left out, and those that are being closed.
    /// Among equals that of the lowest id.
    /// - Throws: `.unknownModel`; `.overloaded` with too many readers.
    public func match(
        model: ModelID, scope: String, ids: [UInt32], excluding: Set<SequenceID> = []
    ) throws(ServiceError) -> (sequence: SequenceID, length: Position)? {
        guard modelEntries.withLock({ $0[model] != nil }) else {
            throw fail(.unknownModel, "\(model) is not in the store of \(rank); add it first.")
        }
        let space = TokenTable.Space(model: model, scope: scope)
        let caches = sequenceCaches.withLock { $0 }
        do {
            return try tokens.withLock { tokens in
                while let tree = tokens.tree(space) {
                    // Begun after the look at the table, or it might not see what that names.
                    let reader = try tokenReader(tokens)
                    do {
                        let found = try tree.match(ids, from: reader) { id in
                            guard !excluding.contains(id), let sequence = caches[id] else { return false }
                            return sequence.core.withLock { !$0.isClosed && $0.damage == nil }
                        }
                        return found.map { ($0.sequence, Position($0.length)) }
                    } catch let error as UnreadableTokens {
                        tokens.hide(error.sequence)
                    }
                }
                return nil
            }
        } catch {
            throw ServiceError(any: error, rank: rank)
        }
    }

    /// Ids of committed tokens.
    /// - Throws: `.positionMismatch` beyond those that the sequence has; `.storeDamaged`, `.unknownSequence`,
    ///   `.overloaded`.
    public func tokenIDs(of id: SequenceID, _ positions: Range<Position>) throws(ServiceError) -> [UInt32] {
        _ = try sequence(id)
        do {
            let reader = try tokens.withLock { try tokenReader($0) }
            let record = reader.sequences[id]?.record
            guard let count = record?.count, positions.lowerBound >= Position(0),
                positions.upperBound <= Position(count)
            else {
                throw fail(
                    .positionMismatch,
                    "\(id) has the ids of \(record?.count ?? 0) tokens on \(rank); those of \(positions.lowerBound)..<"
                        + "\(positions.upperBound) cannot be read.")
            }
            var ids: [UInt32] = []
            ids.reserveCapacity(positions.count)
            var next = positions.lowerBound
            while next < positions.upperBound {
                let (index, offset) = next.value.quotientAndRemainder(dividingBy: TokenChunk.tokens)
                let chunk = try reader.chunk(index, of: id)
                let taken = min(TokenChunk.tokens - offset, positions.upperBound - next)
                for place in offset..<offset + taken { ids.append(chunk.tokenID(at: place)) }
                next += taken
            }
            return ids
        } catch let error as UnreadableTokens {
            tokens.withLock { $0.hide(id) }
            throw fail(.storeDamaged, "\(error.message) in the store of \(rank); \(Self.idsRemedy).")
        } catch {
            throw ServiceError(any: error, rank: rank)
        }
    }

    /// The annotation of the sequence, or nil.
    /// - Throws: `.storeDamaged`, `.unknownSequence`, `.overloaded`.
    public func annotation(of id: SequenceID) throws(ServiceError) -> [UInt8]? {
        _ = try sequence(id)
        do {
            let reader = try tokens.withLock { try tokenReader($0) }
            guard let annotation = reader.sequences[id]?.record.annotation else { return nil }
            let bytes = try reader.read.withValue(tables.annotations, AnnotationRecord.key(annotation.number)) {
                AnnotationRecord.bytes($0, annotation)
            }
            guard let found = bytes ?? nil else {
                throw fail(
                    .storeDamaged,
                    "The annotation of \(id) in the store of \(rank) is missing or fails its checksum; commit another.")
            }
            return found
        } catch {
            throw ServiceError(any: error, rank: rank)
        }
    }

    /// Sequences that have ids and cannot be found by them, since some are damaged.
    public var sequencesWithDamagedIDs: [SequenceID] { tokens.withLock(\.damaged) }

    /// Builds the index as a start does, for measurements: `body` runs while it exists.
    package func withNewIndex<Result>(_ body: () throws -> Result) throws -> Result {
        let entries = tokens.withLock(\.entries).sorted { $0.key < $1.key }.map { ($0.key, $0.value) }
        let loader = StoreLoader(
            rank: rank, cluster: cluster, environment: environment, tables: tables, progress: nil)
        let table = try loader.tokenTable(entries)
        return try withExtendedLifetime(table, body)
    }

    static let idsRemedy = "commit with all ids from token 0 on, or truncate the sequence to there"

    /// Reads what the table names, and what later commits have added.
    private func tokenReader(
        _ tokens: borrowing TokenTable, isPrivileged: Bool = false
    ) throws(StoreError) -> TokenReader {
        TokenReader(
            read: try environment.beginRead(isPrivileged: isPrivileged), table: tables.tokens,
            sequences: tokens.entries)
    }

    // MARK: Changes, when their transaction has committed. Writer thread.

    /// A sequence has been opened or committed, or its ids have been made good.
    func tokensCommitted(_ sequence: SequenceCache, _ record: TokenRecord) {
        put(sequence, record) { tree, reader in
            if tree.contains(sequence.id) {
                try tree.extend(sequence.id, to: record.count, from: reader)
            } else {
                try reader.insert(sequence.id, into: &tree)
            }
        }
    }

    func tokensForked(_ parent: SequenceID, _ child: SequenceCache, _ record: TokenRecord) {
        put(child, record) { tree, reader in
            if tree.contains(parent) {
                try tree.fork(parent, child.id, length: record.count, from: reader)
            } else {
                try reader.insert(child.id, into: &tree)
            }
        }
    }

    func tokensTruncated(_ sequence: SequenceCache, _ record: TokenRecord) {
        tokens.withLock { tokens in
            // With what it was, since the tree may want to read what is cut off.
            index(sequence.id, &tokens) { tree, reader in
                try tree.truncate(sequence.id, to: record.count, from: reader)
            }
        }
        put(sequence, record) { tree, reader in
            // The damaged part may have been cut off.
            try reader.insert(sequence.id, into: &tree)
        }
    }

    func tokensClosed(_ id: SequenceID) {
        let doomed = tokens.withLock { $0.remove(id) }
        if !doomed.isEmpty { sweepLater(doomed) }
    }

    /// Lets a sequence be found by its ids if all can be read.
    func recheckIDs(of id: SequenceID) {
        tokens.withLock { tokens in
            tokens.hide(id)
            index(id, &tokens) { tree, reader in try reader.insert(id, into: &tree) }
        }
    }

    /// A sequence has a new record; values that are no longer needed are deleted later.
    private func put(
        _ sequence: SequenceCache, _ record: TokenRecord,
        _ change: (inout PrefixTree, borrowing TokenReader) throws -> Void
    ) {
        let doomed = tokens.withLock { tokens in
            let doomed = tokens.put(sequence.id, sequence.space, record)
            if record.count > 0 { index(sequence.id, &tokens, change) }
            return doomed
        }
        if !doomed.isEmpty { sweepLater(doomed) }
    }

    private func index(
        _ id: SequenceID, _ tokens: inout TokenTable,
        _ change: (inout PrefixTree, borrowing TokenReader) throws -> Void
    ) {
        do throws(StoreError) {
            let reader = try tokenReader(tokens, isPrivileged: true)
            tokens.index(id, reader, change)
        } catch {
            // Found again at the next start.
            tokens.hide(id)
        }
    }
}

extension SequenceCache {
    var space: TokenTable.Space { TokenTable.Space(model: model.id, scope: scope) }
}

extension TokenReader {
    /// Adds a sequence of which nothing is known, when all its ids can be read.
    borrowing func insert(_ id: SequenceID, into tree: inout PrefixTree) throws {
        var read = ReadChunks()
        try insert(id, into: &tree, &read)
    }

    /// - Parameter read: chunks that others share with it have been read.
    borrowing func insert(_ id: SequenceID, into tree: inout PrefixTree, _ read: inout ReadChunks) throws {
        guard let record = sequences[id]?.record, record.count > 0, !tree.contains(id) else { return }
        for (writer, chunks) in record.lineage.ranges {
            for index in chunks.dropFirst(max((read.ends[writer] ?? 0) - chunks.lowerBound, 0)) {
                _ = try chunk(index, of: id)
                read.ends[writer] = index + 1
            }
        }
        if let open = record.openChunk { _ = try chunk(open.index, of: id) }
        try tree.insert(id, length: record.count, from: self)
    }
}

/// By writer, up to which full chunk all of its have been read and are good.
struct ReadChunks {
    fileprivate var ends: [UInt64: Int] = [:]
}
