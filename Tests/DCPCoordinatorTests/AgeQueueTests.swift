// SPDX-License-Identifier: Apache-2.0

import DCPCoordinator
import DCPCore
import Testing

@Suite("AgeQueue: when sequences with a time to live are looked at")
struct AgeQueueTests {
    private let a = SequenceID(1), b = SequenceID(2)

    @Test("each comes once, in the second that is not before its time")
    func once() {
        var queue = AgeQueue()
        queue.put(b, at: .milliseconds(1001))
        queue.put(a, at: .seconds(1))
        #expect(queue.take(now: .milliseconds(999)).isEmpty)
        #expect(queue.take(now: .milliseconds(1001)) == [a])
        #expect(queue.take(now: .milliseconds(1999)).isEmpty)
        #expect(queue.take(now: .seconds(50)) == [b])
        #expect(queue.take(now: .seconds(100)).isEmpty)
    }

    @Test(
        "one that is moved waits in one place, one that is removed in none, and a time that is over is the next second")
    func moved() {
        var queue = AgeQueue()
        for time in [9, 3, 5, 3] { queue.put(a, at: .seconds(time)) }
        queue.put(b, at: .seconds(3))
        queue.remove(b)
        #expect(queue.take(now: .seconds(4)) == [a])
        queue.put(a, at: .seconds(2))
        #expect(queue.take(now: .seconds(4)).isEmpty)
        #expect(queue.take(now: .seconds(5)) == [a])
        #expect(queue.take(now: .seconds(20)).isEmpty)
    }
}
