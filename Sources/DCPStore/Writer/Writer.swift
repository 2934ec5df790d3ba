// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Synchronization

/// The only thread that writes to an environment.
///
/// lmdb.h, on `MDB_NOTLS`: "Such an application must also serialize the write transactions in an OS thread". Jobs that
/// wait at the same time share one transaction, and therefore one sync. If one of them fails after a change, or the
/// commit fails, the transaction is aborted and each job runs again in its own.
///
/// @unchecked Sendable: `thread` is written once in `init`; everything the thread changes is local to `run` or in a
/// mutex or an atomic.
public final class Writer: @unchecked Sendable {
    private let core: WriterCore
    /// nil with a host.
    private let thread: pthread_t?
    private let isJoined = Mutex(false)

    /// All pages that a transaction writes are in memory until its commit. One of a quarter of a GiB takes longer to
    /// write than a sync adds: sharing it with more jobs saves nothing.
    public static let groupByteCountMax = 256 << 20

    /// Starts the thread.
    /// - Parameters:
    ///   - queueDepthMax: the maximum number of waiting jobs; further ones are refused as `.overloaded`.
    ///   - groupByteCountMax: jobs that wait share a transaction until it has this much to write; the last of them may
    ///     write any amount.
    ///   - watermarks: when the store counts as full. The writer only reports it (`health`) and accepts data up to the
    ///     capacity.
    ///   - host: runs the jobs instead of a thread.
    ///   - turningOver: rewrites something small. Run when a commit finds only pages that the preceding transaction has
    ///     freed, which LMDB reuses only after another transaction.
    public init(
        environment: Environment, durability: Durability, queueDepthMax: Int,
        groupByteCountMax: Int = Writer.groupByteCountMax, watermarks: Watermarks = .standard,
        host: (any WriterHost)? = nil, turningOver: (@Sendable (inout WriteTransaction) throws -> Void)? = nil
    ) throws(StoreError) {
        let core = try WriterCore(
            environment: environment, durability: durability, queueDepthMax: queueDepthMax,
            groupByteCountMax: groupByteCountMax, watermarks: watermarks, host: host, turningOver: turningOver)
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

    /// Passes a job to the thread.
    ///
    /// Any thread may call it; it never blocks. The completion runs on the writer's thread, or immediately on the
    /// caller's if the job is refused: `.overloaded` with a full queue, `.closed`.
    public func submit(_ job: WriteJob) { core.submit(job, isInternal: false) }

    /// Like `submit`, but not limited by the queue: for the store's own jobs.
    public func submitInternal(_ job: WriteJob) { core.submit(job, isInternal: true) }

    /// Transactions committed since the start.
    public var transactionsCommitted: Int { core.transactionsCommitted.load(ordering: .relaxed) }

    /// When the thread began its current transaction, sync or probe, in monotonic nanoseconds; nil while it waits.
    public var busySince: UInt64? {
        let since = core.busySince.load(ordering: .relaxed)
        return since == 0 ? nil : since
    }

    /// The health of the store, as of the last commit.
    public var health: StoreHealth { core.health.withLock { $0 } }

    /// Sets the observer of changes of the condition. It runs on the writer's thread and must not block. There is one
    /// observer at a time.
    public func observeCondition(_ body: @escaping @Sendable (StoreHealth) -> Void) {
        core.observer.withLock { $0 = body }
    }

    /// Sets the observer of syncs. It runs on the writer's thread when every transaction whose jobs have completed is
    /// on the disk, and must not block. There is one observer at a time.
    public func observeSync(_ body: @escaping @Sendable () -> Void) { core.syncObserver.withLock { $0 = body } }

    /// Refuses new jobs, runs waiting ones, syncs, and ends the thread.
    ///
    /// Idempotent. Called from a completion, on the thread itself, it returns before the remaining jobs have run.
    public func close() {
        core.queue.stop()
        // The observer and this store hold each other.
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

    /// Only with a host: drops waiting jobs without running them and does not sync, like the death of the process.
    package func abandon() {
        precondition(thread == nil, "a writer that has a thread must be closed first")
        core.observer.withLock { $0 = nil }
        core.syncObserver.withLock { $0 = nil }
        core.abandon()
    }

    deinit { close() }
}
