// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPTestKit
import DCPTransport
import DCPWire
import Foundation
import Glibc
import NIOCore
import Synchronization
import Testing

@Suite("Rings in shared memory", .timeLimit(.minutes(15)))
struct SharedRingsTests {
    private let settings = MemorySettings(ringByteCount: 64 << 10, payloadByteCountMin: 1)

    /// Both ends, in one process: the memory is mapped twice.
    private func ends(_ settings: MemorySettings) throws -> (dialling: SharedRings, accepting: SharedRings) {
        let (dialling, descriptor) = try SharedRings.create(at: .dialling, settings)
        defer { close(descriptor) }
        return (dialling, try SharedRings(descriptor, at: .accepting, settings))
    }

    private func payload(_ byteCount: Int, _ generator: inout SeededGenerator) -> ByteBuffer {
        ByteBuffer(bytes: (0..<byteCount).map { _ in UInt8.random(in: 0...255, using: &generator) })
    }

    @Test("payloads arrive as they were put, both ways at once, and what was taken makes room")
    func exchange() throws {
        var generator = SeededGenerator.ofRun(salt: 61)
        let (dialling, accepting) = try ends(settings)
        var fallbacks = 0
        for _ in 0..<2000 {
            for (from, to) in [(dialling, accepting), (accepting, dialling)] {
                var sent: [(parts: [ByteBuffer], place: MemoryPlace)] = []
                for _ in 0..<Int.random(in: 1...4, using: &generator) {
                    let parts = (0..<2).map { _ in payload(Int.random(in: 1...12_000, using: &generator), &generator) }
                    guard let place = try from.put(parts) else {
                        fallbacks += 1
                        continue
                    }
                    sent.append((parts, place))
                }
                to.turnBegan()
                for (parts, place) in sent {
                    let byteCount = parts.reduce(0) { $0 + $1.readableBytes }
                    let taken = try to.take(byteCount, at: place)
                    #expect(
                        taken.readableBytesView.elementsEqual(parts.flatMap(\.readableBytesView)),
                        "seed \(SeededGenerator.seed)")
                }
            }
        }
        #expect(UInt64(fallbacks) == dialling.traffic.fallbacks + accepting.traffic.fallbacks && fallbacks > 0)
        #expect(dialling.traffic.payloads > 0 && accepting.traffic.payloads > 0)
    }

    @Test("short payloads, and those that would hold the loop, go with their frames")
    func bounds() throws {
        let large = MemorySettings(ringByteCount: 8 << 20, payloadByteCountMin: 100)
        let (dialling, _) = try ends(large)
        #expect(try dialling.put([ByteBuffer(repeating: 1, count: 99)]) == nil)
        #expect(try dialling.put([ByteBuffer(repeating: 1, count: SharedRings.payloadByteCountMax + 1)]) == nil)
        #expect(try dialling.put([ByteBuffer(repeating: 1, count: SharedRings.payloadByteCountMax)]) != nil)
        #expect(dialling.traffic.fallbacks == 0)
    }

    @Test(
        "an extent outside the ring is refused",
        arguments: [(1, 64 << 10), (64 << 10, 1), ((64 << 10) + 1, 0), (1, Int(UInt32.max)), (Int(UInt32.max), 0)])
    func outside(byteCount: Int, offset: Int) throws {
        let (dialling, _) = try ends(settings)
        let place = MemoryPlace(number: 1, offset: UInt32(offset))
        let error = #expect(throws: ServiceError.self) { try dialling.take(byteCount, at: place) }
        #expect(error?.code == .protocolViolation)
    }

    @Test("a peer cannot have more copied in one turn than the ring holds")
    func copiedAgain() throws {
        let (dialling, _) = try ends(settings)
        dialling.turnBegan()
        for number in 1...4 as ClosedRange<UInt32> {
            _ = try dialling.take(16 << 10, at: MemoryPlace(number: number, offset: 0))
        }
        let next = MemoryPlace(number: 5, offset: 0)
        #expect(throws: ServiceError.self) { try dialling.take(64, at: next) }
        dialling.turnBegan()
        _ = try dialling.take(64, at: next)
    }

    @Test("a frame that is lost on the way, or comes twice, is noticed")
    func numbers() throws {
        let (dialling, accepting) = try ends(settings)
        let places = try (0..<3).compactMap { _ in try dialling.put([ByteBuffer(repeating: 1, count: 64)]) }
        #expect(places.map(\.number) == [1, 2, 3])
        _ = try accepting.take(64, at: places[0])
        for wrong in [places[0], places[2]] {
            let error = #expect(throws: ServiceError.self) { try accepting.take(64, at: wrong) }
            #expect(error?.code == .protocolViolation)
        }
        _ = try accepting.take(64, at: places[1])
        let largest = UInt64(UInt32.max)
        #expect([largest - 1, largest].map { MemoryPlace.number(after: $0) } == [.max, 1])
    }

    @Test("memory that could shrink, of another size, or no memory at all is not mapped")
    func wrongMemory() throws {
        func refused(_ descriptor: CInt) {
            defer { close(descriptor) }
            let error = #expect(throws: ServiceError.self) {
                try SharedRings(descriptor, at: .accepting, settings)
            }
            #expect(error?.code == .protocolViolation)
        }
        let path = "/tmp/rings-\(UUID().uuidString)"
        refused(open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600))
        unlink(path)
        refused(open("/dev/zero", O_RDWR))
        let unsealed = "/dev/shm/rings-\(UUID().uuidString)"
        refused(open(unsealed, O_RDWR | O_CREAT | O_CLOEXEC, 0o600))
        unlink(unsealed)
        for ring in [64, 4096 + 64, (64 << 20) + 4096] {
            let settings = MemorySettings(ringByteCount: ring)
            #expect(throws: ServiceError.self) { try SharedRings.create(at: .dialling, settings) }
        }
    }

    /// For ten minutes with DCP_FUZZ_SECONDS=600.
    @Test("garbage written into the memory meanwhile causes only wrong numbers and a refusal")
    func garbage() throws {
        let seconds = ProcessInfo.processInfo.environment["DCP_FUZZ_SECONDS"].flatMap { Int($0) } ?? 2
        let seed = SeededGenerator.seed
        let end = ContinuousClock.now + .seconds(seconds)
        var generator = SeededGenerator.ofRun(salt: 62)
        var (puts, refusals, takes) = (0, 0, 0)
        while ContinuousClock.now < end {
            let (own, descriptor) = try SharedRings.create(at: .dialling, settings)
            let writer = GarbageWriter(descriptor, seed: generator.next())
            close(descriptor)
            defer { writer.stop() }
            var round: UInt32 = 0
            rounds: for _ in 0..<2000 {
                let byteCount = Int.random(in: 1...40_000, using: &generator)
                do throws(ServiceError) {
                    if let place = try own.put([ByteBuffer(repeating: 7, count: byteCount)]) {
                        #expect(Int(place.offset) + byteCount <= settings.ringByteCount, "seed \(seed)")
                        puts += 1
                    }
                } catch {
                    #expect(error.code == .protocolViolation, "seed \(seed)")
                    refusals += 1
                    break rounds
                }
                own.turnBegan()
                round += 1
                let offset = Int.random(in: 0...settings.ringByteCount - byteCount, using: &generator)
                let place = MemoryPlace(number: round, offset: UInt32(offset))
                #expect(try own.take(byteCount, at: place).readableBytes == byteCount, "seed \(seed)")
                takes += 1
            }
        }
        #expect(puts > 0 && refusals > 0 && takes > 0, "seed \(seed)")
    }
}

/// Writes garbage all over some memory, on a separate thread, and tries to shrink it.
private final class GarbageWriter: Sendable {
    private let isOver = Atomic<Bool>(false)
    private let ended = DispatchSemaphore(value: 0)

    init(_ descriptor: CInt, seed: UInt64) {
        let descriptor = dup(descriptor)
        let byteCount = Int(lseek(descriptor, 0, SEEK_END))
        guard let memory = mmap(nil, byteCount, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0), memory != MAP_FAILED
        else { preconditionFailure("memory can be mapped twice") }
        let address = UInt(bitPattern: memory)
        Thread.detachNewThread { [self] in
            var generator = SeededGenerator(seed: seed)
            let words = UnsafeMutablePointer<UInt64>(bitPattern: address)!
            // Small counts, too: those are the ones that may be believed.
            while !isOver.load(ordering: .relaxed) {
                let count =
                    Bool.random(using: &generator) ? generator.next() : UInt64.random(in: 0...3, using: &generator)
                words[Bool.random(using: &generator) ? 0 : 8] = count
                for _ in 0..<64 { words[Int.random(in: 0..<byteCount / 8, using: &generator)] = generator.next() }
                // It may not shrink.
                _ = ftruncate(descriptor, 0)
            }
            munmap(UnsafeMutableRawPointer(words), byteCount)
            close(descriptor)
            ended.signal()
        }
    }

    func stop() {
        isOver.store(true, ordering: .relaxed)
        ended.wait()
    }
}
