// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPStore

/// The token ids and the annotation in a sequence's record.
struct TokenRecord: Equatable, Sendable {
    /// Ids: as many as committed tokens, or none.
    var count = 0
    /// The writers of the full chunks of ids. It differs from the lineage of the blocks, because chunks end at other
    /// tokens.
    var lineage: Lineage
    var annotation: Annotation?

    struct Annotation: Equatable, Sendable {
        /// Under which it is stored: a writer number, so never given out twice.
        var number: UInt64
        /// The committed length that it was given at: no shorter sequence has it.
        var length: Position
        var byteCount: Int
    }

    /// Full chunks.
    var fullChunks: Int { lineage.sealedBlocks }

    /// The last chunk, which is not full, and belongs to this sequence alone.
    var openChunk: TokenChunk.Key? {
        count % TokenChunk.tokens == 0 ? nil : TokenChunk.Key(writer: lineage.writer, index: fullChunks)
    }

    func key(ofChunk index: Int) -> TokenChunk.Key {
        TokenChunk.Key(writer: lineage.writer(ofBlock: index) ?? lineage.writer, index: index)
    }

    /// Ids of a chunk.
    func tokens(inChunk index: Int) -> Int { min(count - index * TokenChunk.tokens, TokenChunk.tokens) }

    /// The record for a sequence with the first `length` tokens, under another writer.
    ///
    /// A shortened sequence also abandons its open chunk: the ids in a chunk under its key never change.
    func cut(to length: Position, writer: UInt64) -> TokenRecord {
        let kept = min(count, length.value)
        return TokenRecord(
            count: kept, lineage: lineage.cut(to: kept / TokenChunk.tokens, writer: writer),
            annotation: annotation.flatMap { $0.length <= length ? $0 : nil })
    }
}

/// Up to 256 ids of a sequence: a value of the table `tokens`, the ids (4 bytes each) and a CRC-32C of key and ids.
///
/// A chunk only grows until it is full, so a reader that knows how many ids it had can read them at any later time.
enum TokenChunk {
    /// Three fit a page of 4 KiB, so that none needs a run of pages.
    static let tokens = 256

    struct Key: Hashable, Comparable, Sendable {
        static let byteCount = 12

        var writer: UInt64
        var index: Int

        var bytes: [UInt8] {
            var key = KeyBytes()
            key.append(writer)
            key.append(UInt32(index))
            return key.bytes
        }

        init(writer: UInt64, index: Int) {
            self.writer = writer
            self.index = index
        }

        init?(_ key: UnsafeRawBufferPointer) {
            guard key.count == Self.byteCount else { return nil }
            writer = RecordReader.key(key, at: 0)
            index = Int(RecordReader.key(key, at: 8) as UInt32)
        }

        static func < (a: Key, b: Key) -> Bool { (a.writer, a.index) < (b.writer, b.index) }
    }

    static func encoded(_ ids: some Sequence<UInt32>, key: Key) -> [UInt8] {
        var record = RecordBytes()
        for id in ids { record.append(id) }
        return record.sealed(key: key.bytes)
    }

    /// The first `count` ids of a chunk, when it has as many and its checksum fits.
    static func ids(_ value: UnsafeRawBufferPointer, key: Key, count: Int) -> UnsafeRawBufferPointer? {
        guard (value.count - 4) % 4 == 0, value.count <= tokens * 4 + 4, value.count >= count * 4 + 4,
            var reader = RecordReader(key: key.bytes, value)
        else { return nil }
        return reader.nextBytes(count * 4)
    }
}

extension UnsafeRawBufferPointer {
    /// The id at an index of little-endian ids, at any alignment.
    func tokenID(at index: Int) -> UInt32 {
        UInt32(littleEndian: loadUnaligned(fromByteOffset: index * 4, as: UInt32.self))
    }

    var tokenIDs: [UInt32] { (0..<count / 4).map(tokenID) }
}

/// A value of the table `annotations` under the annotation's number (8 bytes): the bytes, and a CRC-32C of key and bytes.
/// In pieces where there is no run of pages.
enum AnnotationRecord {
    static let keyByteCount = 8

    static func key(_ number: UInt64) -> [UInt8] { KeyBytes.of(number) }

    /// Of a value or of a piece of one.
    static func number(_ key: UnsafeRawBufferPointer) -> UInt64? {
        guard key.count == keyByteCount || key.count == keyByteCount + PieceKey.numberByteCount else { return nil }
        return RecordReader.key(key, at: 0)
    }

    static func byteCount(_ annotation: Int) -> Int { annotation + 4 }

    static func write(_ bytes: [UInt8], number: UInt64, into place: UnsafeMutableRawBufferPointer) {
        bytes.withUnsafeBytes { bytes in
            place.copyMemory(from: bytes)
            let checksum = Checksum.of(key: key(number), bytes)
            place.storeBytes(of: checksum.littleEndian, toByteOffset: bytes.count, as: UInt32.self)
        }
    }

    /// - Returns: nil when it is damaged.
    static func bytes(_ value: UnsafeRawBufferPointer, _ annotation: TokenRecord.Annotation) -> [UInt8]? {
        guard value.count == byteCount(annotation.byteCount),
            var reader = RecordReader(key: key(annotation.number), value)
        else { return nil }
        return reader.nextBytes(annotation.byteCount).map(Array.init)
    }
}
