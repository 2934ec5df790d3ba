// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPTestKit
import DCPTransport
import Testing

@Suite("Places in a ring")
struct RingSpaceTests {
    @Test("consumed messages free space; an empty ring starts again at its beginning")
    func places() throws {
        var space = RingSpace(byteCount: 1024)
        #expect(space.place(500) == 0)
        #expect(space.place(100) == 512)
        #expect(space.place(400) == nil)
        try space.taken(1)
        // Behind the last there are 384 bytes, before it 512.
        #expect(space.place(400) == 0)
        #expect(space.place(100) == nil)
        try space.taken(3)
        #expect(space.place(1024) == 0)
        #expect(space.place(1) == nil)
        try space.taken(4)
        #expect(space.place(1025) == nil)
    }

    @Test("a count that the reader cannot have come to is refused", arguments: [2, .max, 1 << 63] as [UInt64])
    func wrongCount(count: UInt64) throws {
        var space = RingSpace(byteCount: 1024)
        _ = space.place(64)
        let error = #expect(throws: ServiceError.self) { try space.taken(count) }
        #expect(error?.code == .protocolViolation)
    }

    @Test("a count that goes back is refused")
    func countBack() throws {
        var space = RingSpace(byteCount: 1024)
        for _ in 0..<3 { _ = space.place(64) }
        try space.taken(2)
        #expect(throws: ServiceError.self) { try space.taken(1) }
    }

    @Test("payloads that wait never overlap, lie inside, and their number is bounded, whatever comes")
    func random() throws {
        var generator = SeededGenerator.ofRun(salt: 60)
        for _ in 0..<200 {
            let byteCount = Int.random(in: 1...64, using: &generator) * 64
            var space = RingSpace(byteCount: byteCount)
            var waiting: [Range<Int>] = []
            var taken: UInt64 = 0
            var mostPlaced = 0
            for _ in 0..<500 {
                if Bool.random(using: &generator) {
                    let size = Int.random(in: 1...max(1, byteCount / 3), using: &generator)
                    guard let offset = space.place(size) else { continue }
                    let place = offset..<offset + size
                    #expect(offset % 64 == 0 && place.upperBound <= byteCount, "seed \(SeededGenerator.seed)")
                    #expect(!waiting.contains { $0.overlaps(place) }, "seed \(SeededGenerator.seed)")
                    waiting.append(place)
                    mostPlaced = max(mostPlaced, waiting.count)
                } else if !waiting.isEmpty {
                    let count = Int.random(in: 1...waiting.count, using: &generator)
                    waiting.removeFirst(count)
                    taken += UInt64(count)
                    try space.taken(taken)
                }
            }
            #expect(mostPlaced > 0 && mostPlaced <= RingSpace.placesMax)
        }
    }
}
