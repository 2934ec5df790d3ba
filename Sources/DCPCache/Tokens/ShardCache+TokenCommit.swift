// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import DCPStore
internal import Synchronization

/// The part of one sequence that a commit makes durable.
public struct CommitPart: Hashable, Sendable {
    public var sequence: SequenceID
    public var length: Position
    /// Ids of its tokens. A sequence has those of all committed tokens, or none.
    public var tokens: TokenIDs?
    /// Replaces what a client left with the sequence, any bytes: nil leaves it, and an empty one removes it. Good for the
    /// committed length: a shorter sequence does not have it.
    public var annotation: [UInt8]?

    public init(
        _ sequence: SequenceID, length: Position, tokens: TokenIDs? = nil, annotation: [UInt8]? = nil
    ) {
        self.sequence = sequence
        self.length = length
        self.tokens = tokens
        self.annotation = annotation
    }
}

/// The ids and annotation that a commit writes.
struct TokenPlan {
    /// As they will be, but for the number of a new annotation.
    var record: TokenRecord
    /// Chunks to write.
    var chunks: [(key: TokenChunk.Key, ids: [UInt32])] = []
    var annotation: [UInt8]?

    var isEmpty: Bool { chunks.isEmpty && annotation == nil }
}

extension ShardCache {
    /// Checks what a commit brings of ids and annotation against what is stored.
    /// - Parameter committed: what the sequence has committed before.
    /// - Throws: `.invalidRequest`, `.positionMismatch`, `.conflict`, `.storeDamaged`.
    func planTokens(
        _ part: CommitPart, committed: Position, _ transaction: borrowing WriteTransaction
    ) throws -> TokenPlan {
        let id = part.sequence
        guard let record = tokens.withLock({ $0[id] }) else { throw unknown(id) }
        if let annotation = part.annotation, annotation.count > SequenceLimits.annotationByteCountMax {
            throw fail(
                .invalidRequest,
                "The annotation of \(id) has \(annotation.count) bytes, more than the limit of "
                    + "\(SequenceLimits.annotationByteCountMax); shorten it.")
        }
        let given = part.tokens.flatMap { $0.ids.isEmpty ? nil : $0 }
        if let given { try check(given, of: part, stored: record.count) }
        let length = max(part.length, committed)
        let end = max(record.count, given?.end ?? 0)
        guard end == 0 || end >= length.value else {
            throw fail(
                .invalidRequest,
                "\(id) would have ids for \(end) of its \(length) tokens on \(rank), but a sequence has ids for all "
                    + "tokens or for none; commit it with the ids of tokens \(end)..<\(length).")
        }
        var plan = TokenPlan(record: record, annotation: part.annotation)
        if part.annotation?.isEmpty == true { plan.record.annotation = nil }
        if let given { try plan.add(given, of: id, on: self, transaction) }
        return plan
    }

    private func check(_ given: TokenIDs, of part: CommitPart, stored: Int) throws(ServiceError) {
        let id = part.sequence
        guard given.start >= 0, given.end <= part.length.value else {
            throw fail(
                .invalidRequest,
                "The commit of \(id) up to \(part.length) tokens has the ids of tokens "
                    + "\(given.start)..<\(given.end); do not commit more ids than tokens.")
        }
        guard given.start <= stored else {
            throw fail(
                .positionMismatch,
                "\(id) has the ids of \(stored) tokens on \(rank), but the commit has those from token "
                    + "\(given.start) on; send them from \(stored) on.")
        }
    }

    func writeTokens(_ plan: inout TokenPlan, length: Position, _ transaction: inout WriteTransaction) throws {
        for (key, ids) in plan.chunks {
            try transaction.put(tables.tokens, key.bytes, TokenChunk.encoded(ids, key: key))
        }
        guard let annotation = plan.annotation, !annotation.isEmpty else { return }
        let number = try takeWriter(&transaction)
        plan.record.annotation = TokenRecord.Annotation(number: number, length: length, byteCount: annotation.count)
        try transaction.place(
            tables.annotations, AnnotationRecord.key(number),
            byteCount: AnnotationRecord.byteCount(annotation.count)
        ) { AnnotationRecord.write(annotation, number: number, into: $0) }
    }

    /// The ids and annotation of a fork, or of a sequence after a cut; writes the chunk at the cut. A damaged chunk
    /// stays damaged: it never prevents a cut.
    func cutTokens(
        of id: SequenceID, to length: Position, writer: UInt64, _ transaction: inout WriteTransaction
    ) throws -> TokenRecord {
        guard let record = tokens.withLock({ $0[id] }) else { throw unknown(id) }
        let cut = record.cut(to: length, writer: writer)
        if let key = cut.openChunk, let ids = try transaction.chunk(key.index, of: record, in: tables.tokens) {
            let kept = ids.tokenIDs.prefix(cut.tokens(inChunk: key.index))
            try transaction.put(tables.tokens, key.bytes, TokenChunk.encoded(kept, key: key))
        }
        return cut
    }
}

extension TokenPlan {
    /// Takes ids that continue the stored ones, or repeat some: those are compared, and written again where they are damaged.
    fileprivate mutating func add(
        _ given: TokenIDs, of id: SequenceID, on cache: ShardCache, _ transaction: borrowing WriteTransaction
    ) throws {
        let stored = record
        record.count = max(stored.count, given.end)
        record.lineage.seal(upTo: record.count / TokenChunk.tokens)
        for index in given.start / TokenChunk.tokens...(given.end - 1) / TokenChunk.tokens {
            let first = index * TokenChunk.tokens
            let known = max(stored.tokens(inChunk: index), 0)
            let places = max(given.start - first, 0)..<min(given.end - first, TokenChunk.tokens)
            let new = given.ids[(first + places.lowerBound - given.start)..<(first + places.upperBound - given.start)]
            let former = known > 0 ? try transaction.chunk(index, of: stored, in: cache.tables.tokens) : nil
            if let former {
                for (place, new) in zip(places, new) where place < known && former.tokenID(at: place) != new {
                    throw cache.fail(
                        .conflict,
                        "Token \(first + place) of \(id) has the id \(former.tokenID(at: place)) on \(cache.rank), "
                            + "but the commit says \(new); truncate the sequence to \(first + place), or fork it "
                            + "there, to continue differently.")
                }
                guard places.upperBound > known else { continue }
            } else if known > 0, places.lowerBound > 0 || places.upperBound < known {
                throw cache.fail(
                    .storeDamaged,
                    "\(TokenChunk.damage(index, of: id)) in the store of \(cache.rank); \(ShardCache.idsRemedy).")
            }
            let ids = (former?.tokenIDs ?? []).prefix(places.lowerBound) + new
            chunks.append((record.key(ofChunk: index), Array(ids)))
        }
    }
}
