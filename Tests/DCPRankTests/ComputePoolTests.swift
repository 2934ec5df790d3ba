// SPDX-License-Identifier: Apache-2.0

import DCPRank
import Dispatch
import Glibc
import Synchronization
import Testing

@Suite("ComputePool: threads that take piece after piece", .timeLimit(.minutes(1)))
struct ComputePoolTests {
    /// Pieces that follow each other, each of which is noted; the first waits until it is let go.
    private final class Pieces: ComputeJob {
        private let name: String
        private let left: Atomic<Int>
        private let record: Record
        private let gate: DispatchSemaphore?

        init(_ name: String, _ count: Int, _ record: Record, gate: DispatchSemaphore? = nil) {
            self.name = name
            left = Atomic(count)
            self.record = record
            self.gate = gate
        }

        func computePiece(_ goesOn: () -> Void) -> NextPieces {
            record.note(name)
            if record.count(name) == 1 { gate?.wait() }
            let rest = left.subtract(1, ordering: .relaxed).newValue
            if rest == 0 { record.ended() }
            return rest > 0 ? NextPieces(count: 1, cost: 1 << 30) : .none
        }
    }

    private final class Record: Sendable {
        private let names = Mutex<[String]>([])
        let began = DispatchSemaphore(value: 0)
        private let isOver = DispatchSemaphore(value: 0)

        var all: [String] { names.withLock { $0 } }
        func count(_ name: String) -> Int { names.withLock { $0.count { $0 == name } } }

        func note(_ name: String) {
            names.withLock { $0.append(name) }
            began.signal()
        }

        func ended() { isOver.signal() }
        func wait() { isOver.wait() }
    }

    @Test("a decode step that comes while a prefill has the only thread waits for one piece of it")
    func decodeBesidePrefill() throws {
        let pool = ComputePool(threads: 1)
        let (record, gate) = (Record(), DispatchSemaphore(value: 0))
        let first = NextPieces(count: 1, cost: 1 << 30)
        pool.add(Pieces("prefill", 5, record, gate: gate), in: .prefill, first)
        record.began.wait()
        pool.add(Pieces("decode", 3, record), in: .decode, first)
        pool.add(Pieces("other decode", 2, record), in: .decode, first)
        gate.signal()
        for _ in 0..<3 { record.wait() }
        let decodes = ["decode", "other decode", "decode", "other decode", "decode"]
        #expect(record.all == ["prefill"] + decodes + ["prefill", "prefill", "prefill", "prefill"])
        try pool.shutDownAndWait()
        #expect(pool.progress == ComputeProgress(finished: 10))
    }

    @Test("at the pool's shutdown waiting work is dropped, and running work ends")
    func shutDown() throws {
        let pool = ComputePool(threads: 1)
        let (record, gate) = (Record(), DispatchSemaphore(value: 0))
        weak var waiting: Pieces?
        do {
            let job = Pieces("waiting", 1, record)
            waiting = job
            pool.add(Pieces("held", 2, record, gate: gate), in: .decode, NextPieces(count: 1, cost: 0))
            record.began.wait()
            pool.add(job, in: .decode, NextPieces(count: 1, cost: 0))
        }
        #expect(pool.progress.waiting == 1 && waiting != nil)
        let ended = DispatchSemaphore(value: 0)
        DispatchQueue.global().async {
            try? pool.shutDownAndWait()
            ended.signal()
        }
        while pool.progress.waiting > 0 { sched_yield() }
        gate.signal()
        ended.wait()
        #expect(record.all == ["held"] && waiting == nil)
        pool.add(Pieces("late", 1, record), in: .decode, NextPieces(count: 1, cost: 0))
        #expect(pool.progress == ComputeProgress(finished: 1))
    }
}
