internal import Glibc
@_spi(CustomByteBufferAllocator) public import NIOCore

/// Memory for payloads of megabytes, which the next ones are given again.
///
/// In fresh memory a payload costs a page fault and a cleared page for every 4 KiB, as much as moving its bytes through a
/// socket. So what is as large as `pooledByteCountMin` lies in mappings of its own, in huge pages where the system has them,
/// and they are kept when a payload is gone: at most `heldByteCountMax`, and none that nobody has taken for `idleTime`. malloc
/// keeps nothing above 32 MiB, and has no huge pages unless it is told to at start.
///
/// Of a process, not of a connection: a payload is received by one and sent over another. Safe to use from any thread.
public enum TensorMemory {
    static let pooledByteCountMin = 512 << 10
    static let heldByteCountMax = 256 << 20
    static let idleTime = Duration.seconds(5)

    /// A buffer with room for so many bytes.
    public static func buffer(byteCount: Int) -> ByteBuffer {
        guard byteCount >= pooledByteCountMin else { return ByteBufferAllocator().buffer(capacity: byteCount) }
        return ByteBuffer(takingOwnershipOf: pool.take(byteCount), allocator: pooled, writerIndex: 0)
    }

    /// Memory that becomes a buffer when it is filled, or is given back.
    package static func take(_ byteCount: Int) -> UnsafeMutableRawBufferPointer {
        byteCount >= pooledByteCountMin
            ? pool.take(byteCount) : UnsafeMutableRawBufferPointer(start: malloc(max(1, byteCount)), count: byteCount)
    }

    /// How much of memory for `byteCount` is there when its first bytes are written.
    package static func writtenByteCount(_ written: Int, of byteCount: Int) -> Int {
        guard byteCount >= MappingPool.hugePage else { return written }
        return (written + MappingPool.hugePage - 1) / MappingPool.hugePage * MappingPool.hugePage
    }

    package static func giveBack(_ memory: UnsafeMutableRawBufferPointer) {
        if memory.count >= pooledByteCountMin { pool.giveBack(memory.baseAddress!) } else { free(memory.baseAddress) }
    }

    /// The bytes of what was taken, as a buffer that gives it back at its end.
    package static func buffer(of memory: UnsafeMutableRawBufferPointer) -> ByteBuffer {
        ByteBuffer(
            takingOwnershipOf: memory,
            allocator: memory.count >= pooledByteCountMin ? pooled : ByteBufferAllocator())
    }

    /// A buffer over a part of what was taken, to be written to. The memory has to be there longer than the buffer is used.
    package static func window(_ memory: UnsafeMutableRawBufferPointer) -> ByteBuffer {
        ByteBuffer(takingOwnershipOf: memory, allocator: borrowed, writerIndex: 0)
    }

    private static let pool = MappingPool(heldByteCountMax: heldByteCountMax, idleTime: idleTime)

    private static let pooled = ByteBufferAllocator(
        allocate: { pool.take($0).baseAddress },
        reallocate: { old, oldByteCount, byteCount in
            let new = pool.take(byteCount)
            if let old {
                new.baseAddress!.copyMemory(from: old, byteCount: min(oldByteCount, byteCount))
                pool.giveBack(old)
            }
            return new.baseAddress
        },
        deallocate: { pool.giveBack($0) },
        copy: { $0.copyMemory(from: $1, byteCount: $2) })

    /// Of windows, which own nothing and stay where they are.
    private static let borrowed = ByteBufferAllocator(
        allocate: { _ in preconditionFailure("a window is not copied") },
        reallocate: { _, _, _ in preconditionFailure("a window does not grow") },
        deallocate: { _ in }, copy: { $0.copyMemory(from: $1, byteCount: $2) })
}
