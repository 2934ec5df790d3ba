// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPTestKit
import DCPWire
import NIOCore
import Testing

@Suite("Memory of payloads")
struct TensorMemoryTests {
    private let pool = MappingPool(heldByteCountMax: 8 << 20, idleTime: .seconds(3600))

    private func address(_ memory: UnsafeMutableRawBufferPointer) -> UnsafeMutableRawPointer { memory.baseAddress! }

    @Test("returned memory is lent again only for requests of about its size")
    func reuse() {
        let first = pool.take(3 << 20)
        first.storeBytes(of: 7, as: UInt8.self)
        #expect(UInt(bitPattern: first.baseAddress) % (2 << 20) == 0, "as large as a huge page, and not in whole ones")
        pool.giveBack(address(first))
        #expect(pool.heldByteCount == 3 << 20)
        let smaller = pool.take(1 << 20)
        #expect(smaller.baseAddress != first.baseAddress && pool.heldByteCount == 3 << 20)
        // An eighth of the power of two below is the step between sizes.
        let second = pool.take((3 << 20) - 1000)
        #expect(second.baseAddress == first.baseAddress && second.count == (3 << 20) - 1000)
        #expect(pool.heldByteCount == 0)
        let third = pool.take(3 << 20)
        #expect(third.baseAddress != second.baseAddress, "lent to two")
        for memory in [smaller, second, third] { pool.giveBack(address(memory)) }
        #expect(pool.heldByteCount == 7 << 20)
    }

    @Test("memory tells whether it was lent before, and what the system does not have is not lent")
    func loans() throws {
        let first = try #require(pool.lend(3 << 20))
        #expect(!first.isReused)
        pool.giveBack(address(first.memory))
        let second = try #require(pool.lend(3 << 20))
        #expect(second.isReused && second.memory.baseAddress == first.memory.baseAddress)
        let third = try #require(pool.lend(3 << 20))
        #expect(!third.isReused)
        for loan in [second, third] { pool.giveBack(address(loan.memory)) }
        let beyond = pool.lend(1 << 60)?.memory.count
        #expect(beyond == nil, "more than an address space")
    }

    @Test("memory above the limit goes back to the system, oldest first")
    func limit() {
        let memory = (0..<5).map { _ in pool.take(2 << 20) }
        for (index, some) in memory.enumerated() {
            pool.giveBack(address(some))
            #expect(pool.heldByteCount == min(index + 1, 4) * 2 << 20)
        }
        // The last to come back is the first to go.
        #expect(pool.take(2 << 20).baseAddress == memory[4].baseAddress)
        let large = pool.take(9 << 20)
        pool.giveBack(address(large))
        #expect(pool.heldByteCount == 0, "one that is larger than the limit lets go of all")
    }

    @Test("unused memory goes back to the system, and lent memory stays")
    func idle() async throws {
        let lent = pool.take(2 << 20)
        let held = pool.take(1 << 20)
        pool.giveBack(address(held))
        pool.release(heldBefore: .now - .seconds(60))
        #expect(pool.heldByteCount == 1 << 20)
        pool.release(heldBefore: .now)
        #expect(pool.heldByteCount == 0)
        lent.storeBytes(of: 1, toByteOffset: lent.count - 1, as: UInt8.self)
        pool.giveBack(address(lent))
        // By itself, in a pool that waits for less: the end is waited for, not a time.
        let short = MappingPool(heldByteCountMax: 8 << 20, idleTime: .milliseconds(1))
        short.giveBack(address(short.take(1 << 20)))
        while short.heldByteCount > 0 { await Task.yield() }
    }

    @Test("a pooled buffer is as any other: it grows, is sliced and is copied on write")
    func buffers() {
        var generator = SeededGenerator.ofRun(salt: 41)
        let bytes = (0..<3 << 20).map { _ in UInt8(truncatingIfNeeded: generator.next()) }
        var buffer = TensorMemory.buffer(byteCount: 1 << 20)
        #expect(buffer.readableBytes == 0 && buffer.writableBytes >= 1 << 20)
        for start in stride(from: 0, to: bytes.count, by: 1 << 18) {
            buffer.writeBytes(bytes[start..<start + 1 << 18])
        }
        var copy = buffer
        copy.setInteger(UInt8(bytes[5] ^ 1), at: 5)
        let slice = buffer.getSlice(at: 1 << 20, length: 1 << 20)
        #expect(Array(buffer.readableBytesView) == bytes, "seed \(SeededGenerator.seed)")
        buffer = ByteBuffer()
        #expect(slice.map { Array($0.readableBytesView) } == Array(bytes[1 << 20..<2 << 20]))
        #expect(copy.getInteger(at: 5) == bytes[5] ^ 1 && copy.getInteger(at: 6) == bytes[6])
    }

    @Test("parts of a payload lie where they are, also beyond 16 MiB")
    func parts() {
        let (tokens, heads, dim) = (5 << 10, 16, 128)
        let request = StepRequest(
            model: ModelID(1), queryMode: .replicate, wantsLSE: false, timeoutMilliseconds: 1,
            entries: [StepRequest.Entry(sequence: SequenceID(1), position: 0, count: tokens)],
            queryDataType: .bfloat16, keyValueDataType: .bfloat16, queryHeads: heads, kvHeads: 1, keyDim: dim,
            valueDim: dim, keyValueTokens: tokens,
            tensors: ByteBuffer(repeating: 0, count: (heads + 2) * tokens * dim * 2))
        let start = request.tensors.withUnsafeReadableBytes { UInt(bitPattern: $0.baseAddress) }
        func offset(_ part: PayloadPart) -> UInt {
            part.withUnsafeBytes { UInt(bitPattern: $0.baseAddress) - start }
        }
        let tensor = tokens * dim * 2
        #expect(offset(request.queries) == 0 && request.queries.byteCount == heads * tensor)
        #expect(offset(request.keys) == heads * tensor && heads * tensor > 16 << 20)
        #expect(offset(request.values) == (heads + 1) * tensor && request.values.byteCount == tensor)
        #expect(offset(request.queries.part(at: 15 * tensor, byteCount: tensor)) == 15 * tensor)
    }
}
