package import DCPCore
package import NIOCore

/// Memory that both sides of a connection share, where payloads lie that frames only name.
package protocol PayloadMemory: AnyObject {
    /// Copies a payload out; nobody reads it there again.
    /// - Throws: `.protocolViolation` for what its sender cannot have put there.
    func take(_ byteCount: Int, at place: MemoryPlace) throws(ServiceError) -> ByteBuffer
}

/// Where a payload lies in such memory.
package struct MemoryPlace: Hashable, Sendable {
    /// Which payload of its sender it is there, from 1, and from 1 again behind the largest number: a frame that is lost or comes
    /// twice is noticed.
    package var number: UInt32
    package var offset: UInt32

    package init(number: UInt32, offset: UInt32) {
        self.number = number
        self.offset = offset
    }

    /// - Parameter count: payloads before it.
    package static func number(after count: UInt64) -> UInt32 { UInt32(count % UInt64(UInt32.max)) + 1 }
}
