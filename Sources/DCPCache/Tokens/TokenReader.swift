// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPStore

/// Reads token ids from the store and verifies each chunk.
///
/// The records may be older than the transaction, because chunks only grow, and are deleted after no record refers to
/// them.
struct TokenReader: TokenSource, ~Copyable {
    let read: ReadTransaction
    let table: Table
    let sequences: [SequenceID: TokenTable.Entry]

    borrowing func id(of sequence: SequenceID, at position: Int) throws -> UInt32 {
        let (index, offset) = position.quotientAndRemainder(dividingBy: TokenChunk.tokens)
        return try chunk(index, of: sequence).tokenID(at: offset)
    }

    borrowing func commonLength(_ a: SequenceID, _ b: SequenceID, from start: Int, upTo end: Int) throws -> Int {
        let (first, second) = (try record(of: a), try record(of: b))
        var position = start
        while position < end {
            let index = position / TokenChunk.tokens
            let chunkEnd = min((index + 1) * TokenChunk.tokens, end)
            // Of a fork and its parent it is the same chunk.
            if first.key(ofChunk: index) != second.key(ofChunk: index) {
                let (ours, theirs) = (try chunk(index, of: a), try chunk(index, of: b))
                for place in position..<chunkEnd
                where ours.tokenID(at: place % TokenChunk.tokens) != theirs.tokenID(at: place % TokenChunk.tokens) {
                    return place
                }
            }
            position = chunkEnd
        }
        return end
    }

    borrowing func commonLength(_ ids: [UInt32], _ sequence: SequenceID, upTo end: Int) throws -> Int {
        for start in stride(from: 0, to: end, by: TokenChunk.tokens) {
            let stored = try chunk(start / TokenChunk.tokens, of: sequence)
            for position in start..<min(start + TokenChunk.tokens, end)
            where stored.tokenID(at: position - start) != ids[position] {
                return position
            }
        }
        return end
    }

    private borrowing func record(of sequence: SequenceID) throws -> TokenRecord {
        guard let entry = sequences[sequence] else {
            throw UnreadableTokens(sequence: sequence, message: "\(sequence) is not in the store")
        }
        return entry.record
    }

    /// The ids of a chunk.
    borrowing func chunk(_ index: Int, of sequence: SequenceID) throws -> UnsafeRawBufferPointer {
        let record = try record(of: sequence)
        guard let ids = try read.chunk(index, of: record, in: table) else {
            throw UnreadableTokens(sequence: sequence, message: TokenChunk.damage(index, of: sequence))
        }
        return ids
    }
}

extension TokenChunk {
    /// The problem with an unreadable one, for people.
    static func damage(_ index: Int, of sequence: SequenceID) -> String {
        "The ids of \(sequence) from token \(index * tokens) on are missing or fail their checksum"
    }
}

/// Reading in both kinds of transactions.
protocol StoreReading: ~Copyable {
    borrowing func get(_ table: Table, _ key: [UInt8]) throws(StoreError) -> UnsafeRawBufferPointer?
}

extension ReadTransaction: StoreReading {}
extension WriteTransaction: StoreReading {}

extension StoreReading where Self: ~Copyable {
    /// The ids of a chunk; nil when it is damaged.
    borrowing func chunk(
        _ index: Int, of record: TokenRecord, in table: Table
    ) throws(StoreError) -> UnsafeRawBufferPointer? {
        let key = record.key(ofChunk: index)
        guard let value = try get(table, key.bytes) else { return nil }
        return TokenChunk.ids(value, key: key, count: record.tokens(inChunk: index))
    }
}
