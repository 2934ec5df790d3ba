// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCore
internal import DCPStore

/// One committed token of an open block: the table `tail`, key writer (8 bytes) and local index (8 bytes).
///
/// Named after a writer, as blocks are, so that forks share the rows of the block that they are cut from.
///
/// The value holds the token's row in each layer, one after the other, and a CRC-32C of key and rows (4 bytes). A row is K
/// `[kvHeads][Dk]` and then V `[kvHeads][Dv]` in the cache format, and their scales where it has some, as `PanelLayout.take`
/// gives it.
enum TailRecord {
    static let keyByteCount = 16

    static func key(writer: UInt64, localIndex: LocalIndex) -> [UInt8] {
        var key = KeyBytes()
        key.append(writer)
        key.append(UInt64(localIndex.value))
        return key.bytes
    }

    /// Which row a key names, or a piece of it.
    static func place(_ key: UnsafeRawBufferPointer) -> (writer: UInt64, localIndex: LocalIndex)? {
        guard key.count == keyByteCount || key.count == keyByteCount + PieceKey.numberByteCount else { return nil }
        let index: UInt64 = RecordReader.key(key, at: 8)
        return (RecordReader.key(key, at: 0), LocalIndex(Int(truncatingIfNeeded: index)))
    }

    /// The number of a piece, when its key is one.
    static func piece(_ key: UnsafeRawBufferPointer) -> Int? {
        key.count == keyByteCount ? nil : Int(RecordReader.key(key, at: keyByteCount) as UInt32)
    }

    /// - Parameters:
    ///   - blocks: each layer's open block.
    ///   - token: the token's place in them.
    static func write(
        key: [UInt8], blocks: [BlockSource], token: Int, layout: TailLayout,
        into place: UnsafeMutableRawBufferPointer
    ) {
        let rows = UnsafeMutableRawBufferPointer(rebasing: place[..<layout.rowByteCount])
        guard let base = rows.baseAddress else { return }
        for (layer, block) in blocks.enumerated() {
            layout.panels[layer].take(token: token, of: block.payload, into: base + layout.offsets[layer])
        }
        let checksum = Checksum.of(key: key, UnsafeRawBufferPointer(rows))
        place.storeBytes(of: checksum.littleEndian, toByteOffset: rows.count, as: UInt32.self)
    }

    /// The rows, when the value has the right size and checksum.
    static func rows(key: [UInt8], _ value: UnsafeRawBufferPointer, layout: TailLayout) -> UnsafeRawPointer? {
        guard value.count == layout.byteCount, var reader = RecordReader(key: key, value) else { return nil }
        return reader.nextBytes(layout.rowByteCount)?.baseAddress
    }
}

/// Where each layer's row is in a tail record: layers differ in size.
struct TailLayout: Sendable {
    let panels: [PanelLayout]
    /// Of each layer's row.
    let offsets: [Int]
    /// Of all rows.
    let rowByteCount: Int

    init(_ panels: [PanelLayout]) {
        self.panels = panels
        var end = 0
        offsets = panels.map { layer in
            defer { end += layer.keptByteCount }
            return end
        }
        rowByteCount = end
    }

    /// Of the record.
    var byteCount: Int { rowByteCount + 4 }
}
