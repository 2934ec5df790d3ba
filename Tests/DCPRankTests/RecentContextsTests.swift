// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPRank
import NIOCore
import Testing

@Suite("RecentContexts: which pages are in memory")
struct RecentContextsTests {
    private func at(_ seconds: Int64) -> NIODeadline { .uptimeNanoseconds(1) + .seconds(seconds) }

    @Test("a read context applies to its layer and from its first position on, and only briefly")
    func holds() {
        var recent = RecentContexts()
        recent.note(SequenceID(1), layer: 3, from: 100, at: at(0))
        #expect(recent.holds(SequenceID(1), layer: 3, from: 100, at: at(10)))
        #expect(recent.holds(SequenceID(1), layer: 3, from: 164, at: at(1)))
        #expect(!recent.holds(SequenceID(1), layer: 3, from: 99, at: at(1)))
        #expect(!recent.holds(SequenceID(1), layer: 2, from: 100, at: at(1)))
        #expect(!recent.holds(SequenceID(2), layer: 3, from: 100, at: at(1)))
        #expect(!recent.holds(SequenceID(1), layer: 3, from: 100, at: at(11)))
    }

    @Test("the last read counts; what is too old is forgotten, and there is never more than the most")
    func bounds() {
        var recent = RecentContexts()
        recent.note(SequenceID(1), layer: 0, from: 0, at: at(0))
        recent.note(SequenceID(1), layer: 0, from: 50, at: at(5))
        recent.expire(at: at(12))
        #expect(recent.holds(SequenceID(1), layer: 0, from: 50, at: at(12)))
        #expect(!recent.holds(SequenceID(1), layer: 0, from: 0, at: at(12)))
        #expect(!recent.holds(SequenceID(1), layer: 0, from: 50, at: at(16)))
        for second in [22, 32, 42] as [Int64] { recent.expire(at: at(second)) }
        #expect(recent.count == 0)
        for sequence in 0...RecentContexts.countMax {
            recent.note(SequenceID(UInt64(sequence) + 1), layer: 0, from: 0, at: at(50))
            #expect(recent.count <= RecentContexts.countMax)
        }
        #expect(!recent.holds(SequenceID(1), layer: 0, from: 0, at: at(50)))
        #expect(recent.holds(SequenceID(UInt64(RecentContexts.countMax) + 1), layer: 0, from: 0, at: at(50)))
    }
}
