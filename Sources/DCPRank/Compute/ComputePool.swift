internal import NIOPosix

/// The rank's compute threads. Kernels, page faults and copies run here, never on an event loop and never on Swift's
/// cooperative pool, which has as many threads as cores and must not block.
///
/// Jobs start in the order they were submitted. Bounded by the step table: a step has a handful of jobs at a time.
public final class ComputePool: Sendable {
    private enum Workers: Sendable {
        case threads(NIOThreadPool)
        case host(@Sendable (@escaping @Sendable () -> Void) -> Void)
    }

    private let workers: Workers
    private let meter = ComputeProgressMeter()
    public let threads: Int

    /// For whoever watches that the threads get on with their work.
    public var progress: ComputeProgress { meter.progress }

    public init(threads: Int) {
        precondition(threads >= 1)
        self.threads = threads
        let pool = NIOThreadPool(numberOfThreads: threads)
        workers = .threads(pool)
        pool.start()
    }

    /// Jobs are handed to `host`, which runs each once, in any order that as many threads could: for simulations.
    package init(threads: Int, host: @escaping @Sendable (@escaping @Sendable () -> Void) -> Void) {
        precondition(threads >= 1)
        self.threads = threads
        workers = .host(host)
    }

    /// Runs a job on one of the threads. After `shutDown` began, jobs are dropped.
    public func submit(_ job: @escaping @Sendable () -> Void) { submit { _ in job() } }

    /// `submit` for a job of many pieces, which calls `goesOn` after each: whoever watches the threads then knows a long
    /// job from one that is stuck.
    package func submit(_ job: @escaping @Sendable (_ goesOn: () -> Void) -> Void) {
        switch workers {
        case .threads(let pool):
            meter.submitted()
            pool.submit { [meter] state in
                guard case .active = state else { return meter.dropped() }
                let number = meter.began()
                job { meter.goesOn(number) }
                meter.ended(number)
            }
        case .host(let run): run { job {} }
        }
    }

    /// Ends the threads after the jobs that run.
    public func shutDown() async throws {
        guard case .threads(let pool) = workers else { return }
        try await pool.shutdownGracefully()
    }

    /// `shutDown` for callers that are not async. Blocks; not to be called on one of the threads.
    @available(*, noasync)
    package func shutDownAndWait() throws {
        guard case .threads(let pool) = workers else { return }
        try pool.syncShutdownGracefully()
    }
}
