// SPDX-License-Identifier: Apache-2.0

internal import CChecksum

/// CRC-32C (Castagnoli), the checksum of every frame and every stored value; RFC 3720 section 12.1.
public struct CRC32C: Sendable {
    private var state: UInt32 = 0

    public init() {}

    /// The checksum of all bytes added so far.
    public var value: UInt32 { state }

    public mutating func update(_ bytes: UnsafeRawBufferPointer) {
        guard let base = bytes.baseAddress else { return }
        state = dcp_crc32c(state, base, bytes.count)
    }

    public static func checksum(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
        var crc = CRC32C()
        crc.update(bytes)
        return crc.value
    }

    /// The implementation this machine uses: `vpclmulqdq`, `sse4.2` or `scalar`.
    public static var implementation: String { String(cString: dcp_crc32c_implementation()) }

    /// The table-driven implementation, for the tests that compare the two.
    /// - Parameter before: the checksum of the preceding bytes.
    package static func scalarChecksum(_ bytes: UnsafeRawBufferPointer, after before: UInt32 = 0) -> UInt32 {
        guard let base = bytes.baseAddress else { return before }
        return dcp_crc32c_scalar(before, base, bytes.count)
    }
}
