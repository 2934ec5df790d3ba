internal import NIOCore

/// Where a channel's socket reads to: into the frame that is being received, else into a buffer about as large as what came of
/// late.
///
/// There is one read a turn (`SocketNetwork`), so a window is used once.
///
/// `@unchecked Sendable`: used on the channel's event loop only.
struct ReceiveAllocator: RecvByteBufferAllocator, @unchecked Sendable {
    private let frames: InboundFrames
    private var sizes = AdaptiveRecvByteBufferAllocator(minimum: 1 << 10, initial: 8 << 10, maximum: 64 << 10)

    /// Without TLS: what a socket reads there is not what a frame consists of.
    static func install(_ frames: InboundFrames, on channel: any Channel) {
        // A channel without a socket has no such options, and brings buffers of its own.
        guard let options = channel.syncOptions else { return }
        try? options.setOption(.recvAllocator, value: ReceiveAllocator(frames: frames))
    }

    private init(frames: InboundFrames) { self.frames = frames }

    func buffer(allocator: ByteBufferAllocator) -> ByteBuffer {
        frames.window ?? sizes.buffer(allocator: allocator)
    }

    /// - Returns: true, always, and so the channel asks for a buffer at each read: one that it had before is no window.
    mutating func record(actualReadBytes: Int) -> Bool {
        if !frames.hasWindow { _ = sizes.record(actualReadBytes: actualReadBytes) }
        return true
    }
}
