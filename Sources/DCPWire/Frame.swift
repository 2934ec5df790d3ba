// SPDX-License-Identifier: Apache-2.0

public import DCPCore
public import NIOCore

/// A message with its envelope, as sent over a connection.
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
    /// The encoded frame in parts: the header with the fields, and the payload separately, so that tensors are not
    /// copied.
    public func encode() -> [ByteBuffer] { encode(body) }

    /// The bytes after the header.
    package var body: EncodedBody { message.encoded }

    /// - Parameters:
    ///   - body: this frame's.
    ///   - place: the payload's place in shared memory; nil to send it after the fields.
    package func encode(_ body: EncodedBody, inMemory place: MemoryPlace? = nil) -> [ByteBuffer] {
        let checksum =
            place == nil
            ? body.checksum ?? CRC32C.checksum(body.fields, body.payload) : CRC32C.checksum(body.fields, [])
        let header = FrameHeader(
            type: body.type, epoch: epoch, tag: tag, sender: sender, fieldsByteCount: body.fields.readableBytes,
            payloadByteCount: body.payload.readableByteCount, bodyChecksum: checksum, memoryPlace: place)
        var head = ByteBufferAllocator().buffer(capacity: FrameHeader.byteCount + body.fields.readableBytes)
        header.write(to: &head)
        head.writeImmutableBuffer(body.fields)
        var parts = [head]
        if place == nil { for part in body.payload where part.readableBytes > 0 { parts.append(part) } }
        return parts
    }
}

/// Splits a stream of bytes into frames. It is a value and holds no bytes; the caller's buffer does.
public struct FrameDecoder: Sendable {
    public var limits: FrameLimits
    private var header: FrameHeader?
    /// Whether the stream ended because a frame exceeded the limits.
    public private(set) var wasOverLimit = false

    public init(limits: FrameLimits) { self.limits = limits }

    /// The total size of the current frame once its header is known, for reserving memory.
    public var frameByteCount: Int? { header.map { FrameHeader.byteCount + $0.bodyByteCount } }

    /// Removes the next complete frame from the buffer; nil if more bytes are needed.
    /// - Throws: `.protocolViolation` or `.incompatible`; the stream cannot go on after it.
    public mutating func next(from buffer: inout ByteBuffer) throws(ServiceError) -> Frame? {
        try next(from: &buffer, memory: nil)
    }

    /// - Parameter memory: the memory that the sender shares, or nil.
    package mutating func next(
        from buffer: inout ByteBuffer, memory: (any PayloadMemory)?
    ) throws(ServiceError) -> Frame? {
        if header == nil {
            let next = try FrameHeader.peek(buffer, limits: limits)
            do throws(ServiceError) { try next?.checkByteCounts(limits) } catch {
                wasOverLimit = true
                throw error
            }
            header = next
        }
        guard let header, let byteCount = frameByteCount, buffer.readableBytes >= byteCount else { return nil }
        let frame = buffer.readSlice(length: byteCount)!
        let body = frame.viewBytes(
            at: frame.readerIndex + FrameHeader.byteCount, length: byteCount - FrameHeader.byteCount)!
        return try finish(frame, header, checksum: body.withUnsafeBytes { CRC32C.checksum($0) }, memory)
    }

    /// Takes the current frame; the buffer has exactly its bytes.
    /// - Parameter checksum: of everything after the header.
    /// - Throws: as `next`.
    package mutating func finish(
        _ frame: ByteBuffer, checksum: UInt32, memory: (any PayloadMemory)? = nil
    ) throws(ServiceError) -> Frame {
        guard let header, frame.readableBytes == frameByteCount else {
            preconditionFailure("a frame is finished only after its header was read and all of its bytes arrived")
        }
        return try finish(frame, header, checksum: checksum, memory)
    }

    private mutating func finish(
        _ frame: ByteBuffer, _ header: FrameHeader, checksum: UInt32, _ memory: (any PayloadMemory)?
    ) throws(ServiceError) -> Frame {
        self.header = nil
        guard checksum == header.bodyChecksum else {
            throw ServiceError(
                .protocolViolation,
                "A \(header.type) frame has checksum \(hex(checksum)), but its header states "
                    + "\(hex(header.bodyChecksum)): the bytes were damaged in transit. Reconnect.")
        }
        var frame = frame
        frame.moveReaderIndex(forwardBy: FrameHeader.byteCount)
        let fields = frame.readSlice(length: header.fieldsByteCount)!
        let payload = try payload(of: header, &frame, memory)
        let message = try Message(type: header.type, fields: fields, payload: payload)
        return Frame(epoch: header.epoch, tag: header.tag, sender: header.sender, message: message)
    }

    private func payload(
        of header: FrameHeader, _ rest: inout ByteBuffer, _ memory: (any PayloadMemory)?
    ) throws(ServiceError) -> ByteBuffer {
        guard let place = header.memoryPlace else { return rest.readSlice(length: header.payloadByteCount)! }
        guard let memory else {
            throw ServiceError(
                .protocolViolation,
                "The payload of a \(header.type) frame lies in shared memory, which this connection does not have; the "
                    + "peer has a bug.")
        }
        return try memory.take(header.payloadByteCount, at: place)
    }
}

extension CRC32C {
    /// The checksum of fields and payload, from the header.
    static func checksum(_ fields: ByteBuffer, _ payload: [ByteBuffer]) -> UInt32 {
        var crc = CRC32C()
        fields.withUnsafeReadableBytes { crc.update($0) }
        for part in payload { part.withUnsafeReadableBytes { crc.update($0) } }
        return crc.value
    }
}

extension [ByteBuffer] {
    package var readableByteCount: Int { reduce(0) { $0 + $1.readableBytes } }

    /// One buffer with all parts, without a copy if there is only one part.
    var joined: ByteBuffer {
        guard count > 1 else { return first ?? ByteBuffer() }
        var whole = TensorMemory.buffer(byteCount: readableByteCount)
        for part in self { whole.writeImmutableBuffer(part) }
        return whole
    }
}
