// SPDX-License-Identifier: Apache-2.0

package import DCPCore
package import DCPWire
package import NIOCore

/// Splits the bytes of a connection into frames.
///
/// Confined to the connection's event loop. A frame that arrives completely is a slice of the receive buffer. An
/// incomplete one gets memory of its size as soon as its header is known, and the socket reads the rest directly into
/// it: see `window`.
package final class InboundFrames {
    private var decoder = FrameDecoder(limits: .beforeHello)
    /// Between two calls less than a header; otherwise the bytes just received.
    private var bytes = ByteBuffer()
    private var partial: PartialFrame?
    /// The previously partial frame, now complete.
    private var whole: (frame: ByteBuffer, checksum: UInt32)?
    /// The memory of payloads that do not follow their frames.
    var memory: (any PayloadMemory)?

    /// The bytes that a link reads in one turn of its loop, so that other links get their share; a socket holds less by
    /// default.
    package static let windowByteCountMax = 1 << 20

    package init() {}

    package var limits: FrameLimits {
        get { decoder.limits }
        set { decoder.limits = newValue }
    }

    var wasOverLimit: Bool { decoder.wasOverLimit }

    /// Memory of an unfinished frame.
    package var unfinishedByteCount: Int { partial?.writtenByteCount ?? bytes.readableBytes }

    /// Whether the next bytes go into a window.
    var hasWindow: Bool { partial != nil }

    /// Where to read the next bytes of an unfinished frame; pass the result to `append`. nil if any buffer may be used.
    package var window: ByteBuffer? { partial?.window(byteCountMax: Self.windowByteCountMax) }

    /// Takes received bytes, from the window or in any buffer.
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

    /// The next complete frame, or nil.
    /// - Throws: as `FrameDecoder.next`; `.overloaded` if the system has no memory for a frame that a peer announces.
    package func next() throws(ServiceError) -> Frame? {
        if let (frame, checksum) = whole {
            whole = nil
            return try decoder.finish(frame, checksum: checksum, memory: memory)
        }
        if let frame = try decoder.next(from: &bytes, memory: memory) { return frame }
        if let byteCount = decoder.frameByteCount, partial == nil {
            guard let loan = TensorMemory.lend(byteCount) else {
                throw ServiceError(
                    .overloaded,
                    "The system has no memory for a frame of \(byteCount) bytes; the connection was closed. Try again, "
                        + "send smaller frames, or give this host more memory.")
            }
            partial = PartialFrame(loan, begins: bytes)
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

/// A frame that is being received, in its own memory.
private final class PartialFrame {
    private let memory: UnsafeMutableRawBufferPointer
    /// Whether an earlier frame has written to the memory.
    private let isReused: Bool
    private(set) var filledByteCount = 0
    /// The checksum of everything after the header, computed while it is in the CPU cache.
    private var checksum = CRC32C()
    private var isFinished = false

    /// - Parameters:
    ///   - loan: memory of the frame's size.
    ///   - begins: its header at least.
    init(_ loan: MappingPool.Loan, begins: ByteBuffer) {
        (memory, isReused) = (loan.memory, loan.isReused)
        var begins = begins
        take(&begins)
    }

    deinit {
        if !isFinished { TensorMemory.giveBack(memory) }
    }

    var isWhole: Bool { filledByteCount == memory.count }

    /// Its use of the system's memory: writing the first byte of a huge page allocates all of it, and reused memory is
    /// allocated. A peer's headers alone could otherwise hold what its earlier frames have written.
    var writtenByteCount: Int {
        guard !isReused else { return memory.count }
        return min(TensorMemory.writtenByteCount(filledByteCount, of: memory.count), memory.count)
    }

    private var rest: UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(rebasing: memory[filledByteCount...])
    }

    /// It owns nothing: the channel passes it on with the bytes read into it, or drops it if nothing was read.
    func window(byteCountMax: Int) -> ByteBuffer {
        TensorMemory.window(UnsafeMutableRawBufferPointer(rebasing: rest.prefix(byteCountMax)))
    }

    /// Takes its missing bytes. Bytes of a window are already in place.
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

    /// The complete frame, and the checksum of everything after its header.
    func finish() -> (ByteBuffer, UInt32) {
        precondition(isWhole && !isFinished)
        isFinished = true
        return (TensorMemory.buffer(of: memory), checksum.value)
    }
}
