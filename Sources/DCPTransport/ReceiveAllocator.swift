// SPDX-License-Identifier: Apache-2.0

internal import NIOCore

/// The destination of a channel's reads: the frame being received, or a buffer sized by recent reads.
///
/// There is one read per turn (`SocketNetwork`), so a window is used once. `@unchecked Sendable`: used only on the
/// channel's event loop.
struct ReceiveAllocator: RecvByteBufferAllocator, @unchecked Sendable {
    private let frames: InboundFrames
    private var sizes = AdaptiveRecvByteBufferAllocator(minimum: 1 << 10, initial: 8 << 10, maximum: 64 << 10)

    /// Only without TLS: with TLS, the socket's bytes are not the frame's.
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
