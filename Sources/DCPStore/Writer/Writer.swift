internal import Glibc
internal import Synchronization

/// The one thread that writes to an environment.
///
/// lmdb.h, on `MDB_NOTLS`: "Such an application must also serialize the write transactions in an OS thread". Jobs that
/// wait at the same moment share one transaction, and so one sync. When one of them fails after it has changed
/// something, or the commit fails, the transaction is aborted and each job runs again in its own.
///
/// @unchecked Sendable: `thread` is written once in `init`; everything the thread changes is local to `run` or in a
/// mutex or an atomic.
public final class Writer: @unchecked Sendable {
    private let core: WriterCore
    /// nil with a host.
    private let thread: pthread_t?
    private let isJoined = Mutex(false)

    /// Starts the thread.
    /// - Parameters:
    ///   - queueDepthMax: the most jobs that may wait; further ones are refused as `.overloaded`.
    ///   - watermarks: when the store counts as full. The writer only says so (`health`); it takes data up to the
    ///     capacity.
    ///   - host: runs the jobs instead of a thread.
    ///   - turningOver: changes something small that is there. Run when a commit finds no pages but those that the transaction
    ///     before it has freed, which LMDB gives to the one after the next.
    public init(
        environment: Environment, durability: Durability, queueDepthMax: Int, watermarks: Watermarks = .standard,
        host: (any WriterHost)? = nil, turningOver: (@Sendable (inout WriteTransaction) throws -> Void)? = nil
    ) throws(StoreError) {
        let core = try WriterCore(
            environment: environment, durability: durability, queueDepthMax: queueDepthMax, watermarks: watermarks,
            host: host, turningOver: turningOver)
        guard host == nil else {
            self.core = core
            thread = nil
            return
        }
        var thread = pthread_t()
        let argument = Unmanaged.passRetained(core)
        let code = pthread_create(
            &thread, nil,
            { argument in
                guard let argument else { return nil }
                Unmanaged<WriterCore>.fromOpaque(argument).takeRetainedValue().run()
                return nil
            }, argument.toOpaque())
        guard code == 0 else {
            argument.release()
            throw StoreError(.unexpected, "Could not start the writer thread.", cause: code)
        }
        self.core = core
        self.thread = thread
    }

    /// Hands a job to the thread. Any thread; never blocks.
    ///
    /// The completion runs on the writer's thread, or at once on the caller's when the job is refused: `.overloaded`
    /// with a full queue, `.closed`.
    public func submit(_ job: WriteJob) { core.submit(job, isInternal: false) }

    /// As `submit`, beside the bound of the queue: for jobs of the store's own accord.
    public func submitInternal(_ job: WriteJob) { core.submit(job, isInternal: true) }

    /// Transactions committed since the start.
    public var transactionsCommitted: Int { core.transactionsCommitted.load(ordering: .relaxed) }

    /// When the thread began the transaction, sync or probe that it is at, in nanoseconds, monotonic; nil while it waits.
    public var busySince: UInt64? {
        let since = core.busySince.load(ordering: .relaxed)
        return since == 0 ? nil : since
    }

    /// How the store is doing, as of the last commit.
    public var health: StoreHealth { core.health.withLock { $0 } }

    /// Has every change of the condition told, on the writer's thread; the body must not block. One observer at a time.
    public func observeCondition(_ body: @escaping @Sendable (StoreHealth) -> Void) {
        core.observer.withLock { $0 = body }
    }

    /// Has every sync told, on the writer's thread: every transaction whose jobs have completed by then is on the disk. The
    /// body must not block. One observer at a time.
    public func observeSync(_ body: @escaping @Sendable () -> Void) { core.syncObserver.withLock { $0 = body } }

    /// Refuses new jobs, runs those that wait, syncs, and ends the thread. Idempotent.
    ///
    /// From a completion, which runs on the thread itself, it returns before the rest has been run.
    public func close() {
        core.queue.stop()
        // It holds whoever watches, and that one this store.
        core.observer.withLock { $0 = nil }
        core.syncObserver.withLock { $0 = nil }
        guard let thread else { return core.finish() }
        isJoined.withLock { isJoined in
            guard !isJoined else { return }
            isJoined = true
            if pthread_equal(pthread_self(), thread) != 0 {
                pthread_detach(thread)
            } else {
                pthread_join(thread, nil)
            }
        }
    }

    /// With a host only: drops the jobs that wait, uncalled, and syncs nothing, as the death of the process would.
    package func abandon() {
        precondition(thread == nil, "a writer that has a thread must be closed first")
        core.observer.withLock { $0 = nil }
        core.syncObserver.withLock { $0 = nil }
        core.abandon()
    }

    deinit { close() }
}
