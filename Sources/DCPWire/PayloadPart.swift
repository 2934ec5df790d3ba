// SPDX-License-Identifier: Apache-2.0

public import NIOCore

/// A part of a payload, without a copy. A slice of a `ByteBuffer` that begins beyond 16 MiB would be a copy.
public struct PayloadPart: Sendable {
    @usableFromInline let payload: ByteBuffer
    @usableFromInline let offset: Int
    public let byteCount: Int

    /// - Parameter offset: from the first readable byte.
    init(_ payload: ByteBuffer, at offset: Int, byteCount: Int) {
        precondition(offset >= 0 && byteCount >= 0 && offset <= payload.readableBytes - byteCount)
        self.payload = payload
        self.offset = offset
        self.byteCount = byteCount
    }

    public init(_ whole: ByteBuffer) { self.init(whole, at: 0, byteCount: whole.readableBytes) }

    public func part(at offset: Int, byteCount: Int) -> PayloadPart {
        precondition(offset >= 0 && offset <= self.byteCount - byteCount)
        return PayloadPart(payload, at: self.offset + offset, byteCount: byteCount)
    }

    @inlinable
    public func withUnsafeBytes<Value, Failure: Error>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Value
    ) throws(Failure) -> Value {
        let range = offset..<offset + byteCount
        let result = payload.withUnsafeReadableBytes { bytes in
            Result { () throws(Failure) in try body(UnsafeRawBufferPointer(rebasing: bytes[range])) }
        }
        return try result.get()
    }
}
