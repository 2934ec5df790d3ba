// SPDX-License-Identifier: Apache-2.0

internal import Glibc
@_spi(CustomByteBufferAllocator) public import NIOCore

/// Reusable memory for payloads of megabytes.
///
/// In fresh memory a payload costs a page fault and a cleared page for every 4 KiB, as much as moving its bytes through
/// a socket. Payloads of at least `pooledByteCountMin` therefore get their own mappings, in huge pages if the system
/// has them, which are kept for reuse: at most `heldByteCountMax`, and none unused for `idleTime`. malloc keeps nothing
/// above 32 MiB, and uses no huge pages unless configured at start. The memory belongs to the process, not to a
/// connection, because a payload received over one connection is sent over another. Safe to use from any thread.
public enum TensorMemory {
    static let pooledByteCountMin = 512 << 10
    static let heldByteCountMax = 256 << 20
    static let idleTime = Duration.seconds(5)

    /// A buffer with room for this many bytes.
    public static func buffer(byteCount: Int) -> ByteBuffer {
        guard byteCount >= pooledByteCountMin else { return ByteBufferAllocator().buffer(capacity: byteCount) }
        return ByteBuffer(takingOwnershipOf: pool.take(byteCount), allocator: pooled, writerIndex: 0)
    }

    /// Memory that becomes a buffer when it is filled, or is given back; nil if the system has none.
    package static func lend(_ byteCount: Int) -> MappingPool.Loan? {
        guard byteCount < pooledByteCountMin else { return pool.lend(byteCount) }
        guard let start = malloc(max(1, byteCount)) else { return nil }
        return MappingPool.Loan(
            memory: UnsafeMutableRawBufferPointer(start: start, count: byteCount), isReused: false)
    }

    /// The part of fresh memory for `byteCount` that is allocated when its first bytes are written.
    package static func writtenByteCount(_ written: Int, of byteCount: Int) -> Int {
        guard byteCount >= MappingPool.hugePage else { return written }
        return (written + MappingPool.hugePage - 1) / MappingPool.hugePage * MappingPool.hugePage
    }

    package static func giveBack(_ memory: UnsafeMutableRawBufferPointer) {
        if memory.count >= pooledByteCountMin { pool.giveBack(memory.baseAddress!) } else { free(memory.baseAddress) }
    }

    /// The bytes as a buffer that returns the memory when it is released.
    package static func buffer(of memory: UnsafeMutableRawBufferPointer) -> ByteBuffer {
        ByteBuffer(
            takingOwnershipOf: memory,
            allocator: memory.count >= pooledByteCountMin ? pooled : ByteBufferAllocator())
    }

    /// A writable buffer over a part of the memory. The memory must outlive the buffer.
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

    /// For windows, which own nothing and do not move.
    private static let borrowed = ByteBufferAllocator(
        allocate: { _ in preconditionFailure("a window is not copied") },
        reallocate: { _, _, _ in preconditionFailure("a window does not grow") },
        deallocate: { _ in }, copy: { $0.copyMemory(from: $1, byteCount: $2) })
}
