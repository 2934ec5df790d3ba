// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPRank
import DCPWire
import Testing

@Suite("LayerCursors: where a layer ends, steps in flight included")
struct LayerCursorsTests {
    private func tag(_ number: UInt64, client: UInt64 = 1) -> Tag { Tag(client: ClientID(client), number: number) }

    private func entry(_ position: Int, _ count: Int, of sequence: UInt64 = 1) -> StepRequest.Entry {
        .init(sequence: SequenceID(sequence), position: position, count: count)
    }

    @Test(
        "TRAPS 29: a step starts exactly where the layer ends, or is refused with both numbers",
        arguments: [0, 9, 11, 40])
    func position(position: Int) throws {
        var cursors = LayerCursors()
        let error = try #require(throws: ServiceError.self) {
            try cursors.admit(entry(position, 2), tag: tag(1), layer: 3, length: 10)
        }
        #expect(error.code == .positionMismatch)
        #expect(error.message.contains("position \(position)") && error.message.contains("10 tokens"))
        #expect(error.message.contains("layer 3") && error.message.contains("sequence #1"))
        // The refusal changed nothing.
        #expect(try cursors.admit(entry(10, 2), tag: tag(2), layer: 3, length: 10) == .append(isContextReady: true))
    }

    @Test("layers and sequences are apart from each other")
    func apart() throws {
        var cursors = LayerCursors()
        #expect(try cursors.admit(entry(4, 1), tag: tag(1), layer: 0, length: 4) == .append(isContextReady: true))
        #expect(try cursors.admit(entry(4, 1), tag: tag(1), layer: 1, length: 4) == .append(isContextReady: true))
        #expect(
            try cursors.admit(entry(0, 1, of: 2), tag: tag(1), layer: 0, length: 0) == .append(isContextReady: true))
        #expect(try cursors.admit(entry(5, 1), tag: tag(2), layer: 0, length: 4) == .append(isContextReady: false))
    }

    @Test("pipelined steps: the later one's context is there when the earlier one's tokens are")
    func pipelined() throws {
        var cursors = LayerCursors()
        let first = entry(0, 3), second = entry(3, 2), third = entry(5, 1)
        #expect(try cursors.admit(first, tag: tag(1), layer: 0, length: 0) == .append(isContextReady: true))
        // The cache's own length is behind; the reservation counts.
        #expect(try cursors.admit(second, tag: tag(2), layer: 0, length: 0) == .append(isContextReady: false))
        #expect(try cursors.admit(third, tag: tag(3), layer: 0, length: 0) == .append(isContextReady: false))
        func holds(_ tokens: Int, layer: Int = 0) -> Bool {
            cursors.holds(tokens, of: first.sequence, layer: layer, length: 0)
        }
        #expect(!holds(3))
        cursors.appended(first, layer: 0)
        #expect(holds(3) && !holds(5))
        cursors.appended(second, layer: 0)
        #expect(holds(5) && !holds(6))
        #expect(!holds(5, layer: 1) && holds(0, layer: 1))
    }

    @Test("queries alone: any positions that are there or on their way, and nothing is reserved")
    func queries() throws {
        var cursors = LayerCursors()
        func check(_ position: Int, _ count: Int, length: Int) throws {
            try cursors.checkQueries(entry(position, count), layer: 0, length: length)
        }
        try check(0, 4, length: 4)
        try check(3, 1, length: 4)
        var error = try #require(throws: ServiceError.self) { try check(3, 2, length: 4) }
        #expect(
            error.code == .positionMismatch && error.message.contains("3..<5") && error.message.contains("4 tokens"))
        #expect(cursors.holds(4, of: SequenceID(1), layer: 0, length: 4))
        #expect(try cursors.admit(entry(4, 3), tag: tag(1), layer: 0, length: 4) == .append(isContextReady: true))
        try check(5, 2, length: 4)
        #expect(!cursors.holds(7, of: SequenceID(1), layer: 0, length: 4))
        error = try #require(throws: ServiceError.self) { try check(7, 1, length: 4) }
        #expect(error.message.contains("7 tokens"))
        cursors.rolledBack(entry(4, 3), layer: 0)
        #expect(throws: ServiceError.self) { try check(4, 1, length: 4) }
        // A query between two steps does not come between them.
        #expect(try cursors.admit(entry(4, 1), tag: tag(2), layer: 0, length: 4) == .append(isContextReady: true))
    }

    @Test("a repeat of the last step appends nothing; while it is in flight it is a conflict")
    func repeats() throws {
        var cursors = LayerCursors()
        let step = entry(0, 3)
        _ = try cursors.admit(step, tag: tag(1), layer: 0, length: 0)
        let conflict = try #require(throws: ServiceError.self) {
            try cursors.admit(step, tag: tag(1), layer: 0, length: 0)
        }
        #expect(conflict.code == .conflict)
        cursors.appended(step, layer: 0)
        for _ in 0..<2 { #expect(try cursors.admit(step, tag: tag(1), layer: 0, length: 3) == .repeat) }
        #expect(cursors.holds(3, of: step.sequence, layer: 0, length: 0))
        // The same tag with other contents, the same contents under another tag: no repeats.
        for (other, by) in [(entry(0, 2), tag(1)), (step, tag(2)), (step, tag(1, client: 2))] {
            let error = try #require(throws: ServiceError.self) {
                try cursors.admit(other, tag: by, layer: 0, length: 3)
            }
            #expect(error.code == .positionMismatch)
        }
        // Once another step has followed it is not the last any more.
        _ = try cursors.admit(entry(3, 1), tag: tag(2), layer: 0, length: 3)
        #expect(throws: ServiceError.self) { try cursors.admit(step, tag: tag(1), layer: 0, length: 3) }
    }

    @Test("a roll back ends the layer where the step began; the same step may then come again as a new one")
    func rollBack() throws {
        var cursors = LayerCursors()
        let first = entry(0, 3), second = entry(3, 2)
        _ = try cursors.admit(first, tag: tag(1), layer: 0, length: 0)
        cursors.appended(first, layer: 0)
        _ = try cursors.admit(second, tag: tag(2), layer: 0, length: 3)
        cursors.appended(second, layer: 0)
        cursors.rolledBack(second, layer: 0)
        #expect(try cursors.admit(second, tag: tag(2), layer: 0, length: 3) == .append(isContextReady: true))
        // Rolling back the earlier one takes the later one's place with it, whichever comes first.
        cursors.rolledBack(first, layer: 0)
        cursors.rolledBack(second, layer: 0)
        #expect(try cursors.admit(first, tag: tag(3), layer: 0, length: 0) == .append(isContextReady: true))
    }

    @Test("after a roll back the step before it is the last again, and may be repeated")
    func rollBackAndRepeat() throws {
        var cursors = LayerCursors()
        let first = entry(0, 3), second = entry(3, 2)
        _ = try cursors.admit(first, tag: tag(1), layer: 0, length: 0)
        cursors.appended(first, layer: 0)
        // Refused for another of its entries, or for want of room, after this one was admitted.
        _ = try cursors.admit(second, tag: tag(2), layer: 0, length: 3)
        cursors.rolledBack(second, layer: 0)
        #expect(try cursors.admit(first, tag: tag(1), layer: 0, length: 3) == .repeat)
        #expect(try cursors.admit(second, tag: tag(3), layer: 0, length: 3) == .append(isContextReady: true))
        // A step that was itself rolled back is not repeated.
        cursors.rolledBack(second, layer: 0)
        cursors.rolledBack(first, layer: 0)
        #expect(try cursors.admit(first, tag: tag(1), layer: 0, length: 0) == .append(isContextReady: true))
    }

    @Test("a roll back before the append gives the place back")
    func rollBackOfReservation() throws {
        var cursors = LayerCursors()
        let first = entry(0, 3), second = entry(3, 2)
        _ = try cursors.admit(first, tag: tag(1), layer: 0, length: 0)
        _ = try cursors.admit(second, tag: tag(2), layer: 0, length: 0)
        cursors.rolledBack(second, layer: 0)
        #expect(try cursors.admit(entry(3, 4), tag: tag(3), layer: 0, length: 0) == .append(isContextReady: false))
        cursors.appended(first, layer: 0)
        #expect(cursors.holds(3, of: first.sequence, layer: 0, length: 0))
    }

    @Test("forgetting a sequence takes the cache's word for its length again, and leaves the others")
    func forget() throws {
        var cursors = LayerCursors()
        _ = try cursors.admit(entry(0, 3), tag: tag(1), layer: 0, length: 0)
        _ = try cursors.admit(entry(0, 3, of: 2), tag: tag(1), layer: 0, length: 0)
        cursors.forget(SequenceID(1))
        #expect(cursors.holds(1, of: SequenceID(1), layer: 0, length: 1))
        #expect(!cursors.holds(3, of: SequenceID(1), layer: 0, length: 1))
        #expect(try cursors.admit(entry(1, 1), tag: tag(2), layer: 0, length: 1) == .append(isContextReady: true))
        #expect(
            try cursors.admit(entry(3, 1, of: 2), tag: tag(2), layer: 0, length: 1) == .append(isContextReady: false))
        cursors.forgetAll()
        #expect(
            try cursors.admit(entry(8, 1, of: 2), tag: tag(3), layer: 0, length: 8) == .append(isContextReady: true))
    }

    @Test("a hundred thousand layers that are used once leave as many cursors as the bound says")
    func bounded() throws {
        var cursors = LayerCursors(idleMax: 100)
        // Two steps that do not end: one of them has the layer's first tokens.
        let waiting = entry(10, 2, of: 900_001), second = entry(12, 1, of: 900_001)
        _ = try cursors.admit(waiting, tag: tag(1), layer: 0, length: 10)
        _ = try cursors.admit(second, tag: tag(2), layer: 0, length: 10)
        for sequence in 1...10_000 as ClosedRange<UInt64> {
            for layer in 0..<10 {
                let step = entry(0, 1, of: sequence)
                _ = try cursors.admit(step, tag: tag(2 + sequence), layer: layer, length: 0)
                cursors.appended(step, layer: layer)
                #expect(cursors.count <= 201)
            }
        }
        // What is on its way is remembered.
        let third = entry(13, 1, of: 900_001)
        #expect(try cursors.admit(third, tag: tag(3), layer: 0, length: 10) == .append(isContextReady: false))
        cursors.appended(waiting, layer: 0)
        #expect(cursors.holds(12, of: SequenceID(900_001), layer: 0, length: 10))
        // The last that was used may be sent again; of the first the cache has the length, and refuses that.
        #expect(try cursors.admit(entry(0, 1, of: 10_000), tag: tag(10_002), layer: 9, length: 1) == .repeat)
        #expect(throws: ServiceError.self) {
            try cursors.admit(entry(0, 1, of: 1), tag: tag(3), layer: 0, length: 1)
        }
        let next = entry(1, 1, of: 1)
        #expect(try cursors.admit(next, tag: tag(4), layer: 0, length: 1) == .append(isContextReady: true))
        cursors.forget(SequenceID(900_001))
        cursors.forgetAll()
        #expect(cursors.count == 0)
    }
}
