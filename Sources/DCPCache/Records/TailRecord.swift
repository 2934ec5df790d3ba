internal import DCPAttention
internal import DCPCore
internal import DCPStore

/// One committed token of an open block: the table `tail`, key sequence id (8 bytes) and local index (8 bytes).
///
/// The value holds, for each layer, K `[kvHeads][Dk]` and then V `[kvHeads][Dv]` in the KV dtype, as
/// `PanelLayout.read` gives them (r bytes a layer):
///
/// | offset | bytes | field |
/// |---|---|---|
/// | r * layer | r | the token's row in that layer |
/// | r * layers | 4 | CRC-32C of key and rows |
enum TailRecord {
    static let keyByteCount = 16

    static func key(_ sequence: SequenceID, localIndex: Int) -> [UInt8] {
        var key = KeyBytes()
        key.append(sequence.value)
        key.append(UInt64(localIndex))
        return key.bytes
    }

    /// Whose row a key names, or a piece of it.
    static func place(_ key: UnsafeRawBufferPointer) -> (sequence: SequenceID, localIndex: Int)? {
        guard key.count == keyByteCount || key.count == keyByteCount + PieceKey.numberByteCount else { return nil }
        let index: UInt64 = RecordReader.key(key, at: 8)
        return (SequenceID(RecordReader.key(key, at: 0)), Int(truncatingIfNeeded: index))
    }

    /// The number of a piece, when its key is one.
    static func piece(_ key: UnsafeRawBufferPointer) -> Int? {
        key.count == keyByteCount ? nil : Int(RecordReader.key(key, at: keyByteCount) as UInt32)
    }

    static func byteCount(_ panels: PanelLayout, layers: Int) -> Int { layers * panels.rowByteCount + 4 }

    /// - Parameters:
    ///   - payloads: each layer's open block.
    ///   - token: the token's place in them.
    static func write(
        key: [UInt8], payloads: [MemoryBlock], token: Int, panels: PanelLayout,
        into place: UnsafeMutableRawBufferPointer
    ) {
        let rows = UnsafeMutableRawBufferPointer(rebasing: place[..<(payloads.count * panels.rowByteCount)])
        for (layer, block) in payloads.enumerated() {
            guard let base = rows.baseAddress else { return }
            panels.read(token: token, of: block.address, into: base + layer * panels.rowByteCount)
        }
        let checksum = Checksum.of(key: key, UnsafeRawBufferPointer(rows))
        place.storeBytes(of: checksum.littleEndian, toByteOffset: rows.count, as: UInt32.self)
    }

    /// The rows, when the value has the right size and checksum.
    static func rows(
        key: [UInt8], _ value: UnsafeRawBufferPointer, panels: PanelLayout, layers: Int
    ) -> UnsafeRawPointer? {
        guard value.count == byteCount(panels, layers: layers), var reader = RecordReader(key: key, value) else {
            return nil
        }
        return reader.nextBytes(layers * panels.rowByteCount)?.baseAddress
    }
}
