public import DCPCore
public import NIOCore

/// One message with its envelope: what goes over a connection.
public struct Frame: Sendable {
    public var epoch: Epoch
    public var tag: Tag
    public var sender: RankIndex?
    public var message: Message

    public init(epoch: Epoch, tag: Tag, sender: RankIndex? = nil, message: Message) {
        self.epoch = epoch
        self.tag = tag
        self.sender = sender
        self.message = message
    }
}

extension Frame {
    /// The frame as bytes: the header with the fields, and the payload apart, so that tensors are not copied.
    public func encode() -> (head: ByteBuffer, payload: ByteBuffer?) {
        var writer = WireWriter()
        let payload = message.encode(to: &writer)
        let fields = writer.buffer
        var crc = CRC32C()
        fields.withUnsafeReadableBytes { crc.update($0) }
        payload?.withUnsafeReadableBytes { crc.update($0) }
        let header = FrameHeader(
            type: message.type, epoch: epoch, tag: tag, sender: sender, fieldsByteCount: fields.readableBytes,
            payloadByteCount: payload?.readableBytes ?? 0, bodyChecksum: crc.value)
        var head = ByteBufferAllocator().buffer(capacity: FrameHeader.byteCount + fields.readableBytes)
        header.write(to: &head)
        head.writeImmutableBuffer(fields)
        return (head, payload)
    }
}

/// Cuts a stream of bytes into frames. A value: it holds no bytes, the caller's buffer does.
public struct FrameDecoder: Sendable {
    public var limits: FrameLimits
    private var header: FrameHeader?
    /// Whether the stream has ended over a frame that announced more than the limits allow.
    public private(set) var wasOverLimit = false

    public init(limits: FrameLimits) { self.limits = limits }

    /// How many bytes the frame in progress takes in all, once its header is known: what to reserve.
    public var frameByteCount: Int? {
        header.map { FrameHeader.byteCount + $0.fieldsByteCount + $0.payloadByteCount }
    }

    /// Takes the next whole frame off the buffer; nil when more bytes are needed.
    /// - Throws: `.protocolViolation` or `.incompatible`; the stream cannot go on after it.
    public mutating func next(from buffer: inout ByteBuffer) throws(ServiceError) -> Frame? {
        if header == nil {
            let next = try FrameHeader.peek(buffer, limits: limits)
            do throws(ServiceError) { try next?.checkByteCounts(limits) } catch {
                wasOverLimit = true
                throw error
            }
            header = next
        }
        guard let header, let byteCount = frameByteCount, buffer.readableBytes >= byteCount else { return nil }
        self.header = nil
        buffer.moveReaderIndex(forwardBy: FrameHeader.byteCount)
        let fields = buffer.readSlice(length: header.fieldsByteCount)!
        let payload = buffer.readSlice(length: header.payloadByteCount)!
        var crc = CRC32C()
        fields.withUnsafeReadableBytes { crc.update($0) }
        payload.withUnsafeReadableBytes { crc.update($0) }
        guard crc.value == header.bodyChecksum else {
            throw ServiceError(
                .protocolViolation,
                "A \(header.type) frame has checksum \(hex(crc.value)), not the \(hex(header.bodyChecksum)) it states: "
                    + "the bytes were damaged on the way. Connect again.")
        }
        let message = try Message(type: header.type, fields: fields, payload: payload)
        return Frame(epoch: header.epoch, tag: header.tag, sender: header.sender, message: message)
    }
}
