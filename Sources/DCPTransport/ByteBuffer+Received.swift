internal import NIOCore

extension ByteBuffer {
    /// Lets go of storage whose larger part has been handed out as messages.
    func copiedIfMostlyRead() -> ByteBuffer {
        guard readerIndex > readableBytes else { return self }
        var copy = ByteBufferAllocator().buffer(capacity: readableBytes)
        copy.writeImmutableBuffer(self)
        return copy
    }
}
