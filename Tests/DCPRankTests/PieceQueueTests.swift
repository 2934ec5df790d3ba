// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPRank
import DCPTestKit
import Testing

@Suite("PieceQueue: which piece a free thread computes")
struct PieceQueueTests {
    private static let bound = PieceRun.multiplicationsMax

    @Test("threads are woken for what they can take, and sleep when there is nothing")
    func threads() {
        var queue = PieceQueue(threads: 3)
        #expect(queue.add(2, of: 1, in: .decode, cost: 0) == 2)
        #expect(queue.add(5, of: 2, in: .decode, cost: 0) == 1)
        #expect(queue.add(1, of: 3, in: .prefill, cost: 0) == 0)
        #expect(queue.waitingCount == 8)
        for _ in 0..<8 { #expect(queue.take() != nil) }
        #expect(queue.waitingCount == 0)
        #expect(queue.take() == nil && queue.take() == nil)
        // One of them is still at a piece.
        #expect(queue.add(4, of: 4, in: .decode, cost: 0) == 2)
        #expect(queue.add(0, of: 5, in: .decode, cost: 0) == 0)
    }

    @Test("a decode step waits for running pieces, and not for waiting ones", arguments: [1, 2, 32])
    func decodeFirst(threads: Int) {
        var queue = PieceQueue(threads: threads)
        #expect(queue.add(1000, of: 1, in: .prefill, cost: Self.bound) == threads)
        for _ in 0..<threads { #expect(queue.take()?.line == .prefill) }
        #expect(queue.add(5, of: 2, in: .decode, cost: Self.bound) == 0)
        for _ in 0..<5 { #expect(queue.take()?.job == 2) }
        #expect(queue.take()?.job == 1)
    }

    @Test("a step that comes while decode steps keep all threads is begun after eight times what its piece takes")
    func ageing() {
        // Costs of a decode step's pieces, and how many of them come before each of the prefill.
        let cases = [
            (Self.bound, 8), (Self.bound / 4, 32), (Self.bound / 64, 512), (0, 512), (4 * Self.bound, 8),
        ]
        for (cost, between) in cases {
            var queue = PieceQueue(threads: 1)
            _ = queue.add(1 << 20, of: 1, in: .decode, cost: cost)
            // Decode steps that were before it do not count.
            for _ in 0..<100 { #expect(queue.take()?.line == .decode) }
            _ = queue.add(10, of: 2, in: .prefill, cost: Self.bound)
            for _ in 0..<10 { #expect(Self.decodesBeforePrefill(&queue) == between, "of \(cost)") }
            #expect(between <= PieceQueue.decodesMax)
        }
    }

    /// Takes pieces up to the next of the prefill line.
    private static func decodesBeforePrefill(_ queue: inout PieceQueue) -> Int {
        var count = 0
        while let next = queue.take(), next.line == .decode { count += 1 }
        return count
    }

    @Test("a short piece of a prefill is not paid for with many of decode steps")
    func shortPrefill() {
        var queue = PieceQueue(threads: 1)
        _ = queue.add(1 << 20, of: 1, in: .decode, cost: Self.bound)
        _ = queue.add(10, of: 2, in: .prefill, cost: Self.bound / 64)
        for _ in 0..<10 { #expect(Self.decodesBeforePrefill(&queue) == 1) }
    }

    @Test("a queue's share: so many decode pieces come before each of a prefill that waits", arguments: [0, 1, 3])
    func share(_ decodeShare: Int) {
        var queue = PieceQueue(threads: 1, decodeShare: decodeShare)
        _ = queue.add(1 << 20, of: 1, in: .decode, cost: Self.bound)
        _ = queue.add(10, of: 2, in: .prefill, cost: Self.bound)
        for _ in 0..<10 { #expect(Self.decodesBeforePrefill(&queue) == decodeShare) }
    }

    @Test("jobs of a line take turns, piece by piece, and one that comes late has its turn at once")
    func turns() {
        var queue = PieceQueue(threads: 1)
        for job in 1...3 { _ = queue.add(100, of: UInt64(job), in: .decode, cost: 0) }
        #expect((0..<7).map { _ in queue.take()?.job } == [1, 2, 3, 1, 2, 3, 1])
        _ = queue.add(2, of: 9, in: .decode, cost: 0)
        #expect((0..<8).map { _ in queue.take()?.job } == [2, 3, 1, 9, 2, 3, 1, 9])
        // A job that has gone on keeps its place.
        _ = queue.add(1, of: 2, in: .decode, cost: 0)
        #expect((0..<4).map { _ in queue.take()?.job } == [2, 3, 1, 2])
    }

    @Test("any history: all that is added is dealt once, and neither line waits for more than the rule says")
    func histories() {
        let seed = SeededGenerator.seed
        var random = SeededGenerator(seed: seed)
        for _ in 0..<200 {
            var queue = PieceQueue(threads: Int.random(in: 1...8, using: &random))
            var left: [PieceQueue.Job: Int] = [:]
            var lines: [PieceQueue.Job: PieceQueue.Line] = [:]
            var decodes = 0, prefills = 0
            for step in 0..<400 {
                if Int.random(in: 0..<3, using: &random) == 0, step < 300 {
                    let job = PieceQueue.Job.random(in: 0..<20, using: &random)
                    let line = lines[job] ?? (Bool.random(using: &random) ? .decode : .prefill)
                    lines[job] = line
                    let count = Int.random(in: 1...20, using: &random)
                    let cost = Int.random(in: 0...2 * Self.bound, using: &random)
                    left[job, default: 0] += count
                    _ = queue.add(count, of: job, in: line, cost: cost)
                    continue
                }
                guard let (job, line) = queue.take() else { continue }
                left[job]! -= 1
                #expect(left[job]! >= 0 && lines[job] == line, "seed \(seed)")
                decodes = line == .decode && queue.isWaiting(in: .prefill) ? decodes + 1 : 0
                prefills = line == .prefill && queue.isWaiting(in: .decode) ? prefills + 1 : 0
                #expect(prefills <= 1 && decodes <= PieceQueue.decodesMax, "seed \(seed)")
            }
            while let (job, _) = queue.take() { left[job]! -= 1 }
            #expect(left.values.allSatisfy { $0 == 0 } && queue.waitingCount == 0, "seed \(seed)")
        }
    }
}
