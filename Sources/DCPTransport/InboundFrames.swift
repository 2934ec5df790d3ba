internal import DCPCore
internal import DCPWire
internal import NIOCore

/// What has come over a connection, cut into frames. A value.
///
/// Messages keep slices of the buffer they came in. Appending to a shared buffer would copy all of it, so what is left over
/// starts a buffer of its own, which is as large as the frame that it begins.
struct InboundFrames {
    private var decoder = FrameDecoder(limits: .beforeHello)
    private var bytes = ByteBuffer()

    var limits: FrameLimits {
        get { decoder.limits }
        set { decoder.limits = newValue }
    }

    var wasOverLimit: Bool { decoder.wasOverLimit }

    /// Bytes of a frame that is not whole.
    var unfinishedByteCount: Int { bytes.readableBytes }

    mutating func append(_ new: inout ByteBuffer) {
        guard bytes.readableBytes > 0 else {
            bytes = new
            return
        }
        if let byteCount = decoder.frameByteCount {
            bytes.reserveCapacity(minimumWritableBytes: max(0, byteCount - bytes.readableBytes))
        }
        bytes.writeBuffer(&new)
    }

    /// The next frame; nil when it is not whole. - Throws: as `FrameDecoder.next`.
    mutating func next() throws(ServiceError) -> Frame? { try decoder.next(from: &bytes) }

    /// After the last whole frame: lets go of storage whose larger part has been handed out as messages.
    mutating func compact() {
        guard bytes.readableBytes > 0 else { return clear() }
        guard bytes.readerIndex > bytes.readableBytes else { return }
        var copy = ByteBufferAllocator().buffer(capacity: bytes.readableBytes)
        copy.writeImmutableBuffer(bytes)
        bytes = copy
    }

    mutating func clear() { bytes = ByteBuffer() }
}
