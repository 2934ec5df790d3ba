// SPDX-License-Identifier: Apache-2.0

import DCPDaemon
import DCPRank
import Dispatch
import NIOCore
import Testing

@Suite("The watchdog's judgement")
struct WatchdogTests {
    private let start = NIODeadline.uptimeNanoseconds(1_000_000_000_000)

    private func isAlive(_ verdict: Watchdog.Verdict) -> Bool { verdict == .alive }

    @Test("an idle daemon stays alive for as long as it is queried")
    func idle() {
        var watchdog = Watchdog(interval: .seconds(10))
        for second in stride(from: 0, to: 100, by: 5) {
            #expect(watchdog.check(ComputeProgress(), now: start + .seconds(Int64(second))) == .alive)
        }
    }

    @Test("a job may run for an interval, and no longer, whatever other threads finish")
    func stuckJob() {
        var watchdog = Watchdog(interval: .seconds(10))
        for (second, expected) in [(5, true), (10, true), (11, false), (15, false)] {
            let progress = ComputeProgress(waiting: 3, running: 2, finished: UInt64(second) * 100, oldestStart: start)
            #expect(isAlive(watchdog.check(progress, now: start + .seconds(Int64(second)))) == expected)
        }
        #expect(watchdog.check(ComputeProgress(finished: 2000), now: start + .seconds(20)) == .alive)
    }

    @Test("jobs that wait while no thread runs any are taken for alive once, not twice")
    func deadThreads() {
        var watchdog = Watchdog(interval: .seconds(10))
        let waiting = ComputeProgress(waiting: 4, finished: 9)
        #expect(watchdog.check(waiting, now: start) == .alive)
        #expect(!isAlive(watchdog.check(waiting, now: start + .seconds(5))))
        #expect(watchdog.check(ComputeProgress(waiting: 3, finished: 10), now: start + .seconds(10)) == .alive)
    }

    @Test("the store's writer may be at one transaction or sync for ten minutes, and no longer")
    func stuckWriter() {
        var watchdog = Watchdog(interval: .seconds(10))
        let limit = Watchdog.writerTimeMax
        #expect(watchdog.check(ComputeProgress(), writerBusySince: start, now: start + limit) == .alive)
        #expect(
            !isAlive(watchdog.check(ComputeProgress(), writerBusySince: start, now: start + limit + .seconds(1))))
        #expect(watchdog.check(ComputeProgress(), writerBusySince: nil, now: start + limit + limit) == .alive)
    }

    @Test("a pool counts what waits, runs and has ended")
    func pool() async throws {
        let pool = ComputePool(threads: 1)
        #expect(pool.progress == ComputeProgress())
        // The only thread is held while a second job waits behind it.
        let (entered, enter) = AsyncStream.makeStream(of: Void.self)
        let gate = ThreadGate()
        pool.submit {
            enter.yield()
            gate.wait()
        }
        pool.submit { enter.yield() }
        var events = entered.makeAsyncIterator()
        await events.next()
        let held = pool.progress
        #expect(held.waiting == 1 && held.running == 1 && held.finished == 0 && held.oldestStart != nil)
        gate.open()
        await events.next()
        try await pool.shutDown()
        #expect(pool.progress == ComputeProgress(finished: 2))
    }

    @Test("a job that ends piece after piece is not taken for one that is stuck")
    func pieces() async throws {
        let pool = ComputePool(threads: 1)
        let (entered, enter) = AsyncStream.makeStream(of: Void.self)
        let gates = [ThreadGate(), ThreadGate()]
        pool.submit { goesOn in
            for gate in gates {
                enter.yield()
                gate.wait()
                goesOn()
            }
        }
        var events = entered.makeAsyncIterator()
        await events.next()
        let first = try #require(pool.progress.oldestStart)
        gates[0].open()
        await events.next()
        let second = try #require(pool.progress.oldestStart)
        #expect(second > first && pool.progress.running == 1)
        gates[1].open()
        try await pool.shutDown()
        #expect(pool.progress == ComputeProgress(finished: 1))
    }
}

/// Holds a thread until it is opened.
private final class ThreadGate: Sendable {
    private let lock = DispatchSemaphore(value: 0)
    func wait() { lock.wait() }
    func open() { lock.signal() }
}
