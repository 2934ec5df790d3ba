package import DCPCore
package import DCPWire
package import NIOCore

/// What has come over a connection, cut into frames. Confined to the connection's event loop.
///
/// A frame that comes whole with others is a slice of the buffer that they came in. One that does not is given memory of its
/// own size as soon as its header is known, and a socket reads the rest of it to where it belongs: see `window`.
package final class InboundFrames {
    private var decoder = FrameDecoder(limits: .beforeHello)
    /// Less than a header, between two calls; or what has just come.
    private var bytes = ByteBuffer()
    private var partial: PartialFrame?
    /// The last one to be partial, now whole.
    private var whole: (frame: ByteBuffer, checksum: UInt32)?
    /// Where payloads may lie that do not follow their frames.
    var memory: (any PayloadMemory)?

    /// What a link reads in one turn of its loop, so that the other links have theirs; a socket holds less by default.
    package static let windowByteCountMax = 1 << 20

    package init() {}

    package var limits: FrameLimits {
        get { decoder.limits }
        set { decoder.limits = newValue }
    }

    var wasOverLimit: Bool { decoder.wasOverLimit }

    /// Memory of a frame that is not whole.
    var unfinishedByteCount: Int { partial?.writtenByteCount ?? bytes.readableBytes }

    /// Whether the next bytes belong to a window.
    var hasWindow: Bool { partial != nil }

    /// Where the next bytes of a frame belong that is not whole: what is read into it goes to `append`. nil when any buffer does.
    package var window: ByteBuffer? { partial?.window(byteCountMax: Self.windowByteCountMax) }

    /// Takes what has come: out of the window, or in any buffer.
    package func append(_ new: inout ByteBuffer) {
        if let partial {
            partial.take(&new)
            guard partial.isWhole else { return }
            whole = partial.finish()
            self.partial = nil
            guard new.readableBytes > 0 else { return }
        }
        if bytes.readableBytes == 0 { bytes = new } else { bytes.writeBuffer(&new) }
    }

    /// The next frame; nil when it is not whole. - Throws: as `FrameDecoder.next`.
    package func next() throws(ServiceError) -> Frame? {
        if let (frame, checksum) = whole {
            whole = nil
            return try decoder.finish(frame, checksum: checksum, memory: memory)
        }
        if let frame = try decoder.next(from: &bytes, memory: memory) { return frame }
        if let byteCount = decoder.frameByteCount, partial == nil {
            partial = PartialFrame(byteCount: byteCount, begins: bytes)
            bytes = ByteBuffer()
        } else if bytes.readableBytes > 0 {
            // Not a slice: messages keep the rest of its storage.
            bytes = ByteBuffer(bytes: bytes.readableBytesView)
        }
        return nil
    }

    func clear() {
        bytes = ByteBuffer()
        partial = nil
        whole = nil
        memory = nil
    }
}

/// A frame that is being received, in memory of its own.
private final class PartialFrame {
    private let memory: UnsafeMutableRawBufferPointer
    private(set) var filledByteCount = 0
    /// Of all behind the header, while it is in the cache.
    private var checksum = CRC32C()
    private var isFinished = false

    /// - Parameter begins: its header at least.
    init(byteCount: Int, begins: ByteBuffer) {
        memory = TensorMemory.take(byteCount)
        var begins = begins
        take(&begins)
    }

    deinit {
        if !isFinished { TensorMemory.giveBack(memory) }
    }

    var isWhole: Bool { filledByteCount == memory.count }

    /// What it takes of the system's memory: a huge page is there when its first byte is written.
    var writtenByteCount: Int { min(TensorMemory.writtenByteCount(filledByteCount, of: memory.count), memory.count) }

    private var rest: UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(rebasing: memory[filledByteCount...])
    }

    /// It owns nothing: the channel hands it on with what was read into it, and keeps none; when nothing was, it is gone.
    func window(byteCountMax: Int) -> ByteBuffer {
        TensorMemory.window(UnsafeMutableRawBufferPointer(rebasing: rest.prefix(byteCountMax)))
    }

    /// Takes as many bytes as it lacks. Those of a window are in their place.
    func take(_ new: inout ByteBuffer) {
        let count = min(new.readableBytes, rest.count)
        new.readWithUnsafeReadableBytes { bytes in
            if bytes.baseAddress != UnsafeRawPointer(rest.baseAddress) {
                rest.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes.prefix(count)))
            }
            return count
        }
        let start = max(filledByteCount, FrameHeader.byteCount)
        filledByteCount += count
        if start < filledByteCount {
            checksum.update(UnsafeRawBufferPointer(rebasing: memory[start..<filledByteCount]))
        }
    }

    /// The whole frame, and the checksum of all behind its header.
    func finish() -> (ByteBuffer, UInt32) {
        precondition(isWhole && !isFinished)
        isFinished = true
        return (TensorMemory.buffer(of: memory), checksum.value)
    }
}
