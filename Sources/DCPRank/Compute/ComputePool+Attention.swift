package import DCPAttention
package import DCPCore
package import NIOCore
internal import Synchronization

/// The attention of one step's entries, cut into pieces, and what keeps the memory alive that they read.
package struct AttentionJob: Sendable {
    let works: [AttentionWork]
    let rows: Int
    let valueDim: Int
    let owners: [any AnyObject & Sendable]

    /// - Parameters:
    ///   - works: one for each entry, over the same heads and the same step's tokens.
    ///   - rows: heads times the step's tokens.
    ///   - owners: held until the result is taken.
    package init(works: [AttentionWork], rows: Int, valueDim: Int, owners: [any AnyObject & Sendable]) {
        self.works = works
        self.rows = rows
        self.valueDim = valueDim
        self.owners = owners
    }

    /// `(work, piece)`, in order.
    fileprivate var indices: [(work: Int, piece: Int)] {
        works.enumerated().flatMap { work, value in (0..<value.pieceCount).map { (work, $0) } }
    }

    /// Computes it at once, on the thread that calls.
    /// - Parameters:
    ///   - begin: of its preparation.
    ///   - isCancelled: as for `attend`.
    func computed(
        since begin: NIODeadline, isCancelled: @escaping @Sendable () -> Bool
    ) -> Result<AttentionResult, ServiceError> {
        let run = AttentionRun(job: self, begin: begin, isCancelled: isCancelled)
        if run.pieceCount > 0 { _ = run.computeUntilLast {} }
        return run.finish()
    }

    fileprivate func finish() -> AttentionStates {
        var states = AttentionStates.empty(rows: rows, valueDim: valueDim)
        for work in works { work.finish(into: &states) }
        return states
    }
}

/// The states that a job computed, and when.
package struct AttentionResult: Sendable {
    package var states: AttentionStates
    package var span: ComputeSpan
}

/// When something was computed on the pool, on the monotonic clock.
package struct ComputeSpan: Hashable, Sendable {
    /// A thread took it up; it had waited in the queue until then.
    package var begin: NIODeadline
    package var end: NIODeadline
    /// Time in kernels, summed over the threads.
    package var kernelTime: TimeAmount

    package init(begin: NIODeadline, end: NIODeadline, kernelTime: TimeAmount) {
        self.begin = begin
        self.end = end
        self.kernelTime = kernelTime
    }
}

extension ComputePool {
    /// Prepares a job on one thread, then deals its pieces to all of them: each takes the next when it has ended one. The
    /// thread that ends the last piece merges them: in fixed order, so the result does not depend on who that is.
    ///
    /// Pieces are no jobs of the pool, each with a closure, a lock, and perhaps the waking of a thread: the threads that are
    /// free are woken once.
    ///
    /// - Parameters:
    ///   - isCancelled: asked before each piece; the job then ends as `.stepAborted`.
    ///   - prepare: calls what it is given after each piece of a long preparation.
    ///   - completion: called once, on a compute thread.
    package func attend(
        isCancelled: @escaping @Sendable () -> Bool,
        prepare: @escaping @Sendable (_ goesOn: () -> Void) throws(ServiceError) -> AttentionJob,
        completion: @escaping @Sendable (Result<AttentionResult, ServiceError>) -> Void
    ) {
        submit { [self] goesOn in
            let begin = NIODeadline.now()
            let job: AttentionJob
            do throws(ServiceError) {
                job = try prepare(goesOn)
            } catch {
                return completion(.failure(error))
            }
            let run = AttentionRun(job: job, begin: begin, isCancelled: isCancelled)
            guard run.pieceCount > 0 else { return completion(run.finish()) }
            for _ in 1..<min(threads, run.pieceCount) {
                submit { goesOn in if run.computeUntilLast(goesOn) { completion(run.finish()) } }
            }
            if run.computeUntilLast(goesOn) { completion(run.finish()) }
        }
    }
}

/// One job under way.
private final class AttentionRun: Sendable {
    private let job: AttentionJob
    private let begin: NIODeadline
    private let isCancelled: @Sendable () -> Bool
    private let pieces: [(work: Int, piece: Int)]
    private let taken = Atomic<Int>(0)
    private let ended = Atomic<Int>(0)
    private let kernelNanoseconds = Atomic<Int64>(0)

    init(job: AttentionJob, begin: NIODeadline, isCancelled: @escaping @Sendable () -> Bool) {
        self.job = job
        self.begin = begin
        self.isCancelled = isCancelled
        pieces = job.indices
    }

    var pieceCount: Int { pieces.count }

    /// Computes pieces that nobody has taken, one after the other, until there are none.
    /// - Returns: whether the last of all to end was among them. Everything that was computed happens before that.
    func computeUntilLast(_ goesOn: () -> Void) -> Bool {
        while true {
            let index = taken.add(1, ordering: .relaxed).oldValue
            guard index < pieces.count else { return false }
            if !isCancelled() { compute(pieces[index].work, pieces[index].piece) }
            if ended.add(1, ordering: .acquiringAndReleasing).newValue == pieces.count { return true }
            goesOn()
        }
    }

    private func compute(_ work: Int, _ piece: Int) {
        let start = NIODeadline.now()
        job.works[work].run(piece: piece)
        kernelNanoseconds.wrappingAdd((NIODeadline.now() - start).nanoseconds, ordering: .relaxed)
    }

    func finish() -> Result<AttentionResult, ServiceError> {
        guard !isCancelled() else {
            return .failure(ServiceError(.stepAborted, "The step was over before it was computed."))
        }
        let states = job.finish()
        let span = ComputeSpan(
            begin: begin, end: .now(),
            kernelTime: .nanoseconds(kernelNanoseconds.load(ordering: .relaxed)))
        return .success(AttentionResult(states: states, span: span))
    }
}
