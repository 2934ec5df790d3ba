// SPDX-License-Identifier: Apache-2.0

internal import CLinux
package import DCPCore
package import DCPWire
internal import Glibc
package import NIOCore

/// Memory shared by both ends of a link: in each direction a ring of payloads and a count of those taken.
///
/// | offset | bytes | |
/// |---|---|---|
/// | 0 | 8 | number of payloads that the accepting end has taken |
/// | 64 | 8 | number that the dialling end has taken |
/// | 4096 | R | payloads from the dialling end |
/// | 4096 + R | R | payloads from the accepting end |
///
/// DESIGN: the other process may write anything anywhere here, at any time. Therefore nothing here contains places or
/// lengths: they are in frames, which arrive over the link and cannot change after they are checked. A count is read
/// once for each use, and compared with the writer's own; a payload is copied once, and only the copy is checked and
/// used. The memory cannot shrink (`dcp_shared_memory_check`). Whatever the other end does, it achieves no more than
/// with a wrong frame.
package final class SharedRings {
    package enum End {
        case dialling
        case accepting
    }

    /// Payloads sent through it from this end.
    package struct Traffic: Hashable, Sendable {
        package var payloads: UInt64 = 0
        package var byteCount: UInt64 = 0
        /// Payloads without room, sent with their frames.
        package var fallbacks: UInt64 = 0

        package init() {}

        package static func += (sum: inout Traffic, other: Traffic) {
            sum.payloads += other.payloads
            sum.byteCount += other.byteCount
            sum.fallbacks += other.fallbacks
        }
    }

    static let headByteCount = 4096
    /// The sizes that an end accepts; the size that it creates is in its settings.
    private static let ringByteCounts = 4096...64 << 20
    /// Copying a longer payload would hold the loop for more than a third of a millisecond.
    package static let payloadByteCountMax = 2 << 20

    private let memory: UnsafeMutableRawBufferPointer
    private let outbound: UnsafeMutableRawBufferPointer
    private let inbound: UnsafeRawBufferPointer
    /// The other end's count of payloads taken from this end's ring.
    private let takenThere: UnsafePointer<UInt64>
    private let takenHere: UnsafeMutablePointer<UInt64>
    private var space: RingSpace
    private let payloadByteCountMin: Int
    private var takenCount: UInt64 = 0
    /// Bytes of payloads taken in this turn.
    private var turnByteCount = 0
    package private(set) var traffic = Traffic()

    /// New memory.
    /// - Returns: the memory and a descriptor that the caller owns.
    package static func create(at end: End, _ settings: MemorySettings) throws(ServiceError) -> (SharedRings, CInt) {
        let descriptor = dcp_shared_memory_create(headByteCount + 2 * settings.ringByteCount)
        guard descriptor >= 0 else { throw Self.failed("make", -descriptor) }
        do throws(ServiceError) {
            return (try SharedRings(descriptor, at: end, settings), descriptor)
        } catch {
            close(descriptor)
            throw error
        }
    }

    /// Maps the memory of a descriptor, which the caller keeps.
    /// - Throws: `.protocolViolation` for memory that is not as `create` makes it.
    package init(_ descriptor: CInt, at end: End, _ settings: MemorySettings) throws(ServiceError) {
        let byteCount = dcp_shared_memory_check(descriptor)
        let ring = (byteCount - Self.headByteCount) / 2
        guard Self.ringByteCounts.contains(ring), ring % Self.headByteCount == 0,
            byteCount == Self.headByteCount + 2 * ring
        else {
            throw ServiceError(
                .protocolViolation,
                "The peer passed a descriptor that is not memory with two rings and a sealed size; it has a bug.")
        }
        guard let address = mmap(nil, byteCount, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0),
            address != MAP_FAILED
        else {
            throw Self.failed("map", errno)
        }
        memory = UnsafeMutableRawBufferPointer(start: address, count: byteCount)
        let isDialling = end == .dialling
        let rings = [address + Self.headByteCount, address + Self.headByteCount + ring]
        outbound = UnsafeMutableRawBufferPointer(start: rings[isDialling ? 0 : 1], count: ring)
        inbound = UnsafeRawBufferPointer(start: rings[isDialling ? 1 : 0], count: ring)
        let counts = [address, address + 64].map { $0.bindMemory(to: UInt64.self, capacity: 1) }
        takenThere = UnsafePointer(counts[isDialling ? 0 : 1])
        takenHere = counts[isDialling ? 1 : 0]
        space = RingSpace(byteCount: ring)
        payloadByteCountMin = settings.payloadByteCountMin
    }

    deinit { munmap(memory.baseAddress, memory.count) }

    private static func failed(_ what: StaticString, _ number: CInt) -> ServiceError {
        ServiceError(.overloaded, "Cannot \(what) shared memory (\(String(cString: strerror(number)))).")
    }

    /// Writes a payload for the other end.
    /// - Returns: its place; nil if it goes with its frame, for lack of room or because that is as fast.
    /// - Throws: `.protocolViolation` if the other end's count is wrong.
    package func put(_ payload: [ByteBuffer]) throws(ServiceError) -> MemoryPlace? {
        let byteCount = payload.readableByteCount
        guard byteCount >= payloadByteCountMin, byteCount <= Self.payloadByteCountMax else { return nil }
        try space.taken(dcp_shared_load(takenThere))
        guard let offset = space.place(byteCount) else {
            traffic.fallbacks += 1
            return nil
        }
        var end = offset
        for part in payload {
            part.withUnsafeReadableBytes { bytes in
                guard !bytes.isEmpty else { return }
                UnsafeMutableRawBufferPointer(rebasing: outbound[end...]).copyMemory(from: bytes)
                end += bytes.count
            }
            FailPoint.ringWriting.pass()
        }
        let place = MemoryPlace(number: MemoryPlace.number(after: traffic.payloads), offset: UInt32(offset))
        traffic.payloads += 1
        traffic.byteCount += UInt64(byteCount)
        return place
    }
}

extension SharedRings: PayloadMemory {
    /// Bytes have arrived over the link: all payloads that they name were here at the same time.
    package func turnBegan() { turnByteCount = 0 }

    package func take(_ byteCount: Int, at place: MemoryPlace) throws(ServiceError) -> ByteBuffer {
        let offset = Int(place.offset)
        let next = MemoryPlace.number(after: takenCount)
        guard place.number == next else {
            throw ServiceError(
                .protocolViolation,
                "A frame announces payload \(place.number) of shared memory, but \(next) is the next: a frame was "
                    + "lost or came twice. Reconnect.")
        }
        guard byteCount <= Self.payloadByteCountMax, offset <= inbound.count - byteCount else {
            throw ServiceError(
                .protocolViolation,
                "A frame announces \(byteCount) bytes at \(offset) of shared memory, which has \(inbound.count) "
                    + "bytes and takes payloads of up to \(Self.payloadByteCountMax); the peer has a bug.")
        }
        turnByteCount += RingSpace.span(byteCount)
        // Payloads sent before this end took the first of them were in the ring together. Without this limit, a few
        // bytes of frames could make this end copy the same bytes again and again.
        guard turnByteCount <= inbound.count else {
            throw ServiceError(
                .protocolViolation,
                "Frames announce \(turnByteCount) bytes in shared memory at once, but it has \(inbound.count) bytes; "
                    + "the peer has a bug.")
        }
        var payload = TensorMemory.buffer(byteCount: byteCount)
        payload.writeBytes(UnsafeRawBufferPointer(rebasing: inbound[offset..<offset + byteCount]))
        takenCount += 1
        dcp_shared_store(takenHere, takenCount)
        return payload
    }
}
