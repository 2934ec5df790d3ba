// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import NIOCore

/// Selects the job of which the next free thread computes a piece, as a value: jobs and threads in, jobs and threads to
/// wake out.
///
/// DESIGN: a *piece* is what a thread computes without looking up, and is bounded: `PieceRun.multiplicationsMax`
/// multiplications of attention, or what else takes no longer. After each the thread comes here again, so what waits is
/// never behind more than the pieces that are under way. Pieces stand in two lines:
///
/// - *Decode before prefill.* While any piece of the decode line waits it is dealt before those of the prefill line.
/// - *A prefill ages.* What is dealt of the decode line while a prefill waits is counted, and when it comes to
///   `decodeShare` times the prefill's own last piece, the next is the prefill's. So under any load of decode steps a prefill has
///   a ninth of the time, and a decode step that takes as long as eight pieces is held up by one.
/// - *Jobs of a line take turns*, piece by piece: a short one is not behind a long one.
///
/// Costs are estimates of shapes, and not clocks, so that a simulated history repeats. Counting pieces instead was rejected: those
/// of a decode step may be a hundred times shorter, and one prefill's would come between every few of them.
package struct PieceQueue: Sendable {
    /// Numbered by the caller.
    package typealias Job = UInt64

    package enum Line: Sendable, CaseIterable {
        /// A client waits for a token.
        case decode
        /// Steps of many tokens, and what else takes long and is not waited for by the token.
        case prefill
    }

    private struct Waiting {
        var count: Int
        var cost: Int
        let line: Line
    }

    private var waiting: [Job: Waiting] = [:]
    /// Jobs with waiting pieces, in the order of their turns.
    private var decodes: CircularBuffer<Job> = []
    private var prefills: CircularBuffer<Job> = []
    /// The rest of the decode line's share before a waiting prefill.
    private var due = 0
    private let threads: Int
    private let decodeShare: Int
    /// Threads that were woken and have not found the queue empty.
    private var busy = 0
    /// Waiting pieces of all jobs.
    package private(set) var waitingCount = 0

    /// How much more than a prefill that waits the decode line takes, unless a queue is given another share.
    package static let decodeShare = 8
    /// The minimum cost of a piece: taking it, and its work beside multiplying.
    package static let costMin = PieceRun.multiplicationsMax / 64
    /// So many pieces of the decode line may be dealt while a prefill waits, of which none takes longer than one should.
    package static let decodesMax = decodeShare * PieceRun.multiplicationsMax / costMin

    /// - Parameter decodeShare: of the time while a prefill waits, in times of what the prefill takes; with 0 each prefill
    ///   is before all decode steps.
    package init(threads: Int, decodeShare: Int = PieceQueue.decodeShare) {
        precondition(threads >= 1 && decodeShare >= 0)
        self.threads = threads
        self.decodeShare = decodeShare
    }

    /// Pieces of a job that may be computed from now on, by as many threads.
    /// - Parameters:
    ///   - line: always the same of a job.
    ///   - cost: of each, and of those of the job that wait already: in multiplications with their additions.
    /// - Returns: how many threads to wake. Each comes to `take` until there is nothing.
    package mutating func add(_ count: Int, of job: Job, in line: Line, cost: Int) -> Int {
        guard count > 0 else { return 0 }
        // A piece may be longer than it should be: a block of a model with many dimensions.
        let cost = min(max(cost, Self.costMin), PieceRun.multiplicationsMax)
        waitingCount += count
        if waiting[job] == nil {
            waiting[job] = Waiting(count: count, cost: cost, line: line)
            // It begins to wait now; an earlier one has waited as long already.
            if line == .prefill, prefills.isEmpty { due = max(due, decodeShare * cost) }
            append(job, to: line)
        } else {
            waiting[job]!.count += count
            waiting[job]!.cost = cost
        }
        let woken = min(count, threads - busy)
        busy += woken
        return woken
    }

    /// The next piece for a thread that was woken or has ended its piece.
    /// - Returns: nil when nothing waits; the thread then sleeps.
    package mutating func take() -> (job: Job, line: Line)? {
        let line: Line
        if decodes.isEmpty {
            guard !prefills.isEmpty else {
                busy -= 1
                return nil
            }
            line = .prefill
        } else {
            line = prefills.isEmpty || due > 0 ? .decode : .prefill
        }
        let job = line == .decode ? decodes.removeFirst() : prefills.removeFirst()
        guard var rest = waiting[job] else { preconditionFailure("a queued job has waiting pieces") }
        due = line == .decode ? max(0, due - rest.cost) : decodeShare * rest.cost
        waitingCount -= 1
        rest.count -= 1
        waiting[job] = rest.count > 0 ? rest : nil
        if rest.count > 0 { append(job, to: line) }
        return (job, line)
    }

    /// Whether pieces of a line are waiting.
    package func isWaiting(in line: Line) -> Bool {
        switch line {
        case .decode: !decodes.isEmpty
        case .prefill: !prefills.isEmpty
        }
    }

    /// Drops all waiting pieces: the threads end.
    package mutating func removeAll() {
        waiting = [:]
        (decodes, prefills) = ([], [])
        waitingCount = 0
    }

    private mutating func append(_ job: Job, to line: Line) {
        switch line {
        case .decode: decodes.append(job)
        case .prefill: prefills.append(job)
        }
    }
}
