// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCore

extension BlockRecord {
    /// The damage of a stored block, to complete "Block 3 of ..."; nil if it matches its key and its bytes are intact.
    /// Reads all of it.
    static func damage(_ key: BlockKey, payload: UnsafeRawPointer, panels: PanelLayout) -> String? {
        if isIntact(key, payload: payload, panels: panels) { return nil }
        let header = UnsafeRawBufferPointer(start: payload - headerByteCount, count: headerByteCount)
        func field(_ offset: Int) -> UInt32 {
            UInt32(littleEndian: header.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
        }
        let own = Checksum.of(key: [], UnsafeRawBufferPointer(rebasing: header[..<44]))
        if own != field(44) { return "has a header that fails its checksum." }
        let bytes = UnsafeRawBufferPointer(start: payload, count: panels.payloadByteCount)
        if CRC32C.checksum(bytes) != field(32) { return "has a payload that fails its checksum." }
        let writer = UInt64(littleEndian: header.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
        return "holds another block: layer \(field(16)), index \(field(20)) of writer \(writer), \(field(24)) tokens."
    }
}
