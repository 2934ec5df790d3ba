// SPDX-License-Identifier: Apache-2.0

/// The checksum of a record in a store, a rank's or the coordinator's.
package enum Checksum {
    /// Of its key, then of its bytes: a value under another record's key is damage.
    package static func of(key: [UInt8], _ bytes: UnsafeRawBufferPointer) -> UInt32 {
        var crc = CRC32C()
        key.withUnsafeBytes { crc.update($0) }
        crc.update(bytes)
        return crc.value
    }
}
