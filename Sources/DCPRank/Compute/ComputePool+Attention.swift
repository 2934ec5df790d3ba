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
    fileprivate var indices: [(Int, Int)] {
        works.enumerated().flatMap { work, value in (0..<value.pieceCount).map { (work, $0) } }
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
    /// Prepares a job on one thread, then deals its pieces to all of them. The thread that finishes the last piece merges
    /// them: in fixed order, so the result does not depend on who that is.
    ///
    /// - Parameters:
    ///   - isCancelled: asked before each piece; the job then ends as `.stepAborted`.
    ///   - completion: called once, on a compute thread.
    package func attend(
        isCancelled: @escaping @Sendable () -> Bool,
        prepare: @escaping @Sendable () throws(ServiceError) -> AttentionJob,
        completion: @escaping @Sendable (Result<AttentionResult, ServiceError>) -> Void
    ) {
        submit { [self] in
            let begin = NIODeadline.now()
            let job: AttentionJob
            do throws(ServiceError) {
                job = try prepare()
            } catch {
                return completion(.failure(error))
            }
            let indices = job.indices
            let run = AttentionRun(job: job, begin: begin, pieces: indices.count, isCancelled: isCancelled)
            guard threads > 1, indices.count > 1 else {
                for (work, piece) in indices { run.compute(work, piece) }
                return completion(run.finish())
            }
            for (work, piece) in indices {
                submit { if run.computeIsLast(work, piece) { completion(run.finish()) } }
            }
        }
    }
}

/// One job under way.
private final class AttentionRun: Sendable {
    private let job: AttentionJob
    private let begin: NIODeadline
    private let isCancelled: @Sendable () -> Bool
    private let remaining: Atomic<Int>
    private let kernelNanoseconds = Atomic<Int64>(0)

    init(job: AttentionJob, begin: NIODeadline, pieces: Int, isCancelled: @escaping @Sendable () -> Bool) {
        self.job = job
        self.begin = begin
        self.isCancelled = isCancelled
        remaining = Atomic(pieces)
    }

    func compute(_ work: Int, _ piece: Int) {
        guard !isCancelled() else { return }
        let start = NIODeadline.now()
        job.works[work].run(piece: piece)
        kernelNanoseconds.wrappingAdd((NIODeadline.now() - start).nanoseconds, ordering: .relaxed)
    }

    /// Whether this piece was the last. Everything before any arrival happens before the last one returns.
    func computeIsLast(_ work: Int, _ piece: Int) -> Bool {
        compute(work, piece)
        return remaining.subtract(1, ordering: .acquiringAndReleasing).newValue == 0
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
