// SPDX-License-Identifier: Apache-2.0

internal import NIOCore
internal import NIOPosix
internal import Synchronization

/// The rank's compute threads. Kernels, page faults and copies run here, never on an event loop and never on Swift's
/// cooperative pool, which has as many threads as cores and must not block.
///
/// Threads take piece after piece, in the order of `PieceQueue`. Bounded by the step table: a step has a handful of jobs at a
/// time.
public final class ComputePool: Sendable {
    private enum Workers: Sendable {
        case threads(NIOThreadPool)
        case host(ComputeHost)
    }

    private struct State {
        var queue: PieceQueue
        var jobs: [PieceQueue.Job: Job] = [:]
        var nextJob: PieceQueue.Job = 0
        var meter = ComputeProgressMeter()
        var isShutDown = false
    }

    private struct Job {
        let job: any ComputeJob
        let line: PieceQueue.Line
        /// Waiting and running pieces.
        var pieces: Int
    }

    private let workers: Workers
    private let state: Mutex<State>
    public let threads: Int

    /// For the watchdog.
    public var progress: ComputeProgress {
        state.withLock { state in
            var progress = state.meter.progress
            progress.waiting = state.queue.waitingCount
            return progress
        }
    }

    public init(threads: Int) {
        self.threads = threads
        state = Mutex(State(queue: PieceQueue(threads: threads)))
        let pool = NIOThreadPool(numberOfThreads: threads)
        workers = .threads(pool)
        pool.start()
    }

    /// Threads that are a host's: for simulations.
    /// - Parameter decodeShare: see `PieceQueue`.
    package init(threads: Int, host: ComputeHost, decodeShare: Int = PieceQueue.decodeShare) {
        self.threads = threads
        state = Mutex(State(queue: PieceQueue(threads: threads, decodeShare: decodeShare)))
        workers = .host(host)
    }

    /// Runs a body on one of the threads, as one piece. After `shutDown` began, jobs are dropped.
    public func submit(_ body: @escaping @Sendable () -> Void) { submit { _ in body() } }

    /// `submit` for a long body, which calls `goesOn` after each part of it, so that the watchdog can distinguish it
    /// from a stuck one. No token waits for it.
    package func submit(_ body: @escaping @Sendable (_ goesOn: () -> Void) -> Void) {
        add(
            SerialJob { goesOn in
                body(goesOn)
                return false
            }, in: .prefill, NextPieces(count: 1, cost: 0))
    }

    /// Adds a job.
    /// - Parameter pieces: those that may be computed at once.
    package func add(_ job: any ComputeJob, in line: PieceQueue.Line, _ pieces: NextPieces) {
        let woken = state.withLock { state -> Int in
            guard !state.isShutDown else { return 0 }
            state.nextJob += 1
            state.jobs[state.nextJob] = Job(job: job, line: line, pieces: pieces.count)
            return state.queue.add(pieces.count, of: state.nextJob, in: line, cost: pieces.cost)
        }
        wake(woken)
    }

    private func wake(_ count: Int) {
        for _ in 0..<count {
            switch workers {
            case .threads(let pool):
                // Not active: the pool ends, and so has the queue.
                pool.submit { [self] in if case .active = $0 { while computePiece() {} } }
            case .host(let host): computeNextPiece(on: host)
            }
        }
    }

    /// One piece at a time: the host decides what happens in between.
    private func computeNextPiece(on host: ComputeHost) {
        host.run { [self] in if computePiece() { computeNextPiece(on: host) } }
    }

    /// - Returns: false when there was none; the thread then sleeps.
    private func computePiece() -> Bool {
        let taken = state.withLock { state -> (PieceQueue.Job, any ComputeJob, turn: UInt64)? in
            guard let (number, line) = state.queue.take() else { return nil }
            if case .host(let host) = workers {
                host.dealt(line, PieceQueue.Line.allCases.filter(state.queue.isWaiting))
            }
            guard let job = state.jobs[number] else { preconditionFailure("a waiting job is in the table") }
            return (number, job.job, state.meter.began())
        }
        guard let (number, job, turn) = taken else { return false }
        let next = job.computePiece { state.withLock { $0.meter.goesOn(turn) } }
        let woken = state.withLock { state -> Int in
            state.meter.ended(turn)
            guard !state.isShutDown, let line = state.jobs[number]?.line else { return 0 }
            state.jobs[number]!.pieces += next.count - 1
            if state.jobs[number]!.pieces == 0 { state.jobs[number] = nil }
            return state.queue.add(next.count, of: number, in: line, cost: next.cost)
        }
        wake(woken)
        return true
    }

    /// Ends the threads after the running pieces.
    public func shutDown() async throws {
        dropWaiting()
        guard case .threads(let pool) = workers else { return }
        try await pool.shutdownGracefully()
    }

    /// `shutDown` for callers that are not async. Blocks; not to be called on one of the threads.
    @available(*, noasync)
    package func shutDownAndWait() throws {
        dropWaiting()
        guard case .threads(let pool) = workers else { return }
        try pool.syncShutdownGracefully()
    }

    /// Releases what has not run; see `RankServer.abandon`.
    func abandon() { dropWaiting() }

    private func dropWaiting() {
        // Released without the lock: this may release much that the jobs hold.
        let dropped = state.withLock { state in
            state.isShutDown = true
            state.queue.removeAll()
            defer { state.jobs = [:] }
            return state.jobs
        }
        withExtendedLifetime(dropped) {}
    }
}

/// Replaces threads in a simulation.
package struct ComputeHost: Sendable {
    /// Runs a turn of a thread, once, at any time; as many at a time as there are threads.
    package var run: @Sendable (_ turn: @escaping @Sendable () -> Void) -> Void
    /// A piece of a line was dealt; pieces of some lines still wait.
    package var dealt: @Sendable (PieceQueue.Line, _ waiting: [PieceQueue.Line]) -> Void

    package init(
        run: @escaping @Sendable (_ turn: @escaping @Sendable () -> Void) -> Void,
        dealt: @escaping @Sendable (PieceQueue.Line, _ waiting: [PieceQueue.Line]) -> Void
    ) {
        self.run = run
        self.dealt = dealt
    }
}
