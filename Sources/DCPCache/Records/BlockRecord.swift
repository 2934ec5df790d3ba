// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCore
internal import DCPStore

/// The key of the table `blocks`: model (4 bytes), writer (8), layer (4), block index (4). All blocks one writer sealed
/// for a layer are one contiguous key range.
struct BlockKey: Hashable, Comparable {
    static let byteCount = 20

    var model: ModelID
    /// The rank-local number of who sealed it; see `Lineage`.
    var writer: UInt64
    var layer: Int
    var index: Int

    var bytes: [UInt8] {
        var key = KeyBytes()
        key.append(model.value)
        key.append(writer)
        key.append(UInt32(layer))
        key.append(UInt32(index))
        return key.bytes
    }

    init(model: ModelID, writer: UInt64, layer: Int, index: Int) {
        self.model = model
        self.writer = writer
        self.layer = layer
        self.index = index
    }

    /// - Parameter key: of a block, or of a piece of one.
    init?(_ key: UnsafeRawBufferPointer) {
        guard key.count == Self.byteCount || key.count == Self.byteCount + PieceKey.numberByteCount else { return nil }
        model = ModelID(RecordReader.key(key, at: 0))
        writer = RecordReader.key(key, at: 4)
        layer = Int(RecordReader.key(key, at: 12) as UInt32)
        index = Int(RecordReader.key(key, at: 16) as UInt32)
    }

    static func < (a: BlockKey, b: BlockKey) -> Bool {
        (a.model.value, a.writer, a.layer, a.index) < (b.model.value, b.writer, b.layer, b.index)
    }

    /// The number of a piece, when its key is one.
    static func piece(_ key: UnsafeRawBufferPointer) -> Int? {
        key.count == byteCount ? nil : Int(RecordReader.key(key, at: byteCount) as UInt32)
    }
}

/// The value of the table `blocks`: a header of 48 bytes, the payload (`PanelLayout`), and zeros up to half a page if
/// it is shorter.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | magic, `DCPB` |
/// | 4 | 4 | format |
/// | 8 | 8 | writer |
/// | 16 | 4 | layer |
/// | 20 | 4 | block index |
/// | 24 | 4 | tokens, always B: blocks are sealed when they are full |
/// | 28 | 4 | p, payload bytes |
/// | 32 | 4 | CRC-32C of the payload |
/// | 36 | 4 | model id |
/// | 40 | 4 | 0 |
/// | 44 | 4 | CRC-32C of bytes 0..<44 |
/// | 48 | p | payload |
///
/// LMDB puts a value of more than half a page at byte 16 of a run of pages of its own, so the payload starts at byte 64
/// of a page and never moves while the value lives. A shorter value would sit inside a leaf, unaligned, and move; hence
/// the zeros.
enum BlockRecord {
    static let headerByteCount = 48
    static let magic: UInt32 = 0x4250_4344  // "DCPB" in memory
    static let payloadAlignment = 64

    static func byteCount(_ panels: PanelLayout, pageByteCount: Int) -> Int {
        max(headerByteCount + panels.payloadByteCount, pageByteCount / 2)
    }

    /// Pages that a value takes, with LMDB's header of 16 bytes.
    static func pages(byteCount: Int, pageByteCount: Int) -> Int { (15 + byteCount) / pageByteCount + 1 }

    static func write(
        _ key: BlockKey, payload: UnsafeRawPointer, panels: PanelLayout, into place: UnsafeMutableRawBufferPointer
    ) {
        let bytes = UnsafeRawBufferPointer(start: payload, count: panels.payloadByteCount)
        let header = header(key, panels: panels, payloadChecksum: CRC32C.checksum(bytes))
        header.withUnsafeBytes { place.copyMemory(from: $0) }
        UnsafeMutableRawBufferPointer(rebasing: place[headerByteCount...]).copyMemory(from: bytes)
        place[(headerByteCount + bytes.count)...].initializeMemory(as: UInt8.self, repeating: 0)
    }

    private static func header(_ key: BlockKey, panels: PanelLayout, payloadChecksum: UInt32) -> [UInt8] {
        var record = RecordBytes()
        record.append(magic)
        record.append(UInt32(LayoutFingerprint.storeFormat))
        record.append(key.writer)
        record.append(UInt32(key.layer))
        record.append(UInt32(key.index))
        record.append(UInt32(panels.blockTokens))
        record.append(UInt32(panels.payloadByteCount))
        record.append(payloadChecksum)
        record.append(key.model.value)
        record.append(UInt32(0))
        return record.sealed(key: [])
    }

    /// The payload in a value, when that is the block that the key names.
    static func intactPayload(
        _ key: BlockKey, _ value: UnsafeRawBufferPointer, byteCount: Int, panels: PanelLayout
    ) -> UnsafeRawPointer? {
        guard value.count == byteCount, let base = value.baseAddress else { return nil }
        let payload = base + headerByteCount
        return isIntact(key, payload: payload, panels: panels) ? payload : nil
    }

    /// Whether the stored block is the one the key names and its bytes are those that were sealed. Reads all of it.
    static func isIntact(_ key: BlockKey, payload: UnsafeRawPointer, panels: PanelLayout) -> Bool {
        let checksum = CRC32C.checksum(UnsafeRawBufferPointer(start: payload, count: panels.payloadByteCount))
        let stored = UnsafeRawBufferPointer(start: payload - headerByteCount, count: headerByteCount)
        return stored.elementsEqual(header(key, panels: panels, payloadChecksum: checksum))
    }
}
