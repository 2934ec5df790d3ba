// SPDX-License-Identifier: Apache-2.0

package import DCPCore
package import NIOCore

/// Memory that both sides of a connection share, with payloads that frames only name.
package protocol PayloadMemory: AnyObject {
    /// Copies a payload out; it is not read there again.
    /// - Throws: `.protocolViolation` for a payload that its sender cannot have written there.
    func take(_ byteCount: Int, at place: MemoryPlace) throws(ServiceError) -> ByteBuffer
}

/// The place of a payload in shared memory.
package struct MemoryPlace: Hashable, Sendable {
    /// The payload's number, from 1 on, and from 1 again after the largest number: lost and repeated frames are
    /// detected.
    package var number: UInt32
    package var offset: UInt32

    package init(number: UInt32, offset: UInt32) {
        self.number = number
        self.offset = offset
    }

    /// - Parameter count: payloads before it.
    package static func number(after count: UInt64) -> UInt32 { UInt32(count % UInt64(UInt32.max)) + 1 }
}
