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
    ///   - host: runs the jobs instead of a thread.
    public init(
        environment: Environment, durability: Durability, queueDepthMax: Int, host: (any WriterHost)? = nil
    ) throws(StoreError) {
        let core = WriterCore(
            environment: environment, durability: durability, queueDepthMax: queueDepthMax, host: host)
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

    /// As `submit`, past the bound of the queue: for jobs that follow from one that has committed.
    public func submitInternal(_ job: WriteJob) { core.submit(job, isInternal: true) }

    /// Transactions committed since the start.
    public var transactionsCommitted: Int { core.transactionsCommitted.load(ordering: .relaxed) }

    /// Refuses new jobs, runs those that wait, syncs, and ends the thread. Idempotent.
    ///
    /// From a completion, which runs on the thread itself, it returns before the rest has been run.
    public func close() {
        core.queue.stop()
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
        precondition(thread == nil, "a writer with a thread is closed")
        core.abandon()
    }

    deinit { close() }
}

/// What the thread owns; apart from `Writer` so that the thread does not keep its own handle alive.
///
/// @unchecked Sendable: `failure` and `isDirty` are touched by the writer's thread only.
final class WriterCore: @unchecked Sendable {
    let queue: WriteQueue
    let transactionsCommitted = Atomic(0)
    private let environment: Environment
    private let durability: Durability
    private let host: (any WriterHost)?
    private var failure: StoreError?
    private var isDirty = false
    private var isSyncScheduled = false

    init(environment: Environment, durability: Durability, queueDepthMax: Int, host: (any WriterHost)?) {
        self.environment = environment
        self.durability = durability
        self.host = host
        self.queue = WriteQueue(depthMax: queueDepthMax)
    }

    func submit(_ job: WriteJob, isInternal: Bool) {
        if let refusal = queue.push(job, isInternal: isInternal) { return job.completion(.failure(refusal)) }
        host?.schedule(after: .zero) { [weak self] in self?.runWaiting() }
    }

    // MARK: With a host

    /// What `run` does in one turn.
    private func runWaiting() {
        guard let jobs = queue.poll() else { return }
        execute(jobs)
        if durability == .everysec, isDirty, !isSyncScheduled {
            isSyncScheduled = true
            host?.schedule(after: .seconds(1)) { [weak self] in
                guard let self else { return }
                isSyncScheduled = false
                if isDirty { sync() }
            }
        }
    }

    func finish() {
        while let jobs = queue.poll() { execute(jobs) }
        if isDirty { sync() }
    }

    func abandon() {
        queue.abandon()
        isDirty = false
    }

    // MARK: The thread

    func run() {
        Self.nameThread("dcp-writer")
        var nextSync: timespec?
        loop: while true {
            switch queue.next(deadline: nextSync) {
            case .group(let jobs): execute(jobs)
            case .deadline: break
            case .end: break loop
            }
            guard durability == .everysec, isDirty else { continue }
            let now = Self.now()
            if let due = nextSync, (now.tv_sec, now.tv_nsec) >= (due.tv_sec, due.tv_nsec) {
                sync()
                nextSync = nil
            } else if nextSync == nil {
                nextSync = timespec(tv_sec: now.tv_sec + 1, tv_nsec: now.tv_nsec)
            }
        }
        if isDirty { sync() }
    }

    /// For `top -H` and core files. Swift's Glibc lacks `pthread_setname_np`.
    private static func nameThread(_ name: String) {
        let descriptor = Glibc.open("/proc/thread-self/comm", O_WRONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return }
        _ = name.withCString { write(descriptor, $0, name.utf8.count) }
        Glibc.close(descriptor)
    }

    private static func now() -> timespec {
        var now = timespec()
        clock_gettime(CLOCK_MONOTONIC, &now)
        return now
    }

    private func sync() {
        do throws(StoreError) {
            try environment.sync()
            isDirty = false
            host?.synced()
        } catch {
            // After a failed fsync the kernel calls the lost pages clean and the next sync succeeds: nothing that was
            // acknowledged since the last good one can be trusted, so nothing more is written.
            isDirty = false
            failure = StoreError(
                .damaged,
                "A sync of the store failed, so acknowledged writes may be lost: restart the rank and verify "
                    + "the store. (\(error))", cause: error.cause)
        }
    }

    /// Runs jobs in one transaction, or one by one when that fails.
    private func execute(_ jobs: [WriteJob]) {
        if let failure {
            for job in jobs { job.completion(.failure(failure)) }
            return
        }
        do {
            let outcomes = try attempt(jobs)
            for (job, outcome) in zip(jobs, outcomes) { job.completion(outcome) }
        } catch {
            if jobs.count == 1 { return jobs[0].completion(.failure(error)) }
            for job in jobs { execute([job]) }
        }
    }

    /// - Returns: each job's outcome, when the transaction committed or had nothing to commit.
    /// - Throws: when the transaction was aborted; every job has then been undone.
    private func attempt(_ jobs: [WriteJob]) throws -> [Result<Void, any Error>] {
        var outcomes: [Result<Void, any Error>] = []
        var ran: [WriteJob] = []
        var transaction = try WriteTransaction(environment)
        do {
            for job in jobs {
                let changes = transaction.changes
                ran.append(job)
                do {
                    try job.body(&transaction)
                    outcomes.append(.success(()))
                } catch {
                    outcomes.append(.failure(error))
                    // Refused before it changed anything: the others need not know.
                    guard transaction.changes == changes, !transaction.isFailed else { throw error }
                    ran.removeLast()
                    job.undo()
                }
            }
            guard transaction.changes > 0 else { return outcomes }
            if !jobs.allSatisfy(\.isFreeing) { try checkRoom(for: transaction.pages) }
            try transaction.commit()
        } catch {
            for job in ran.reversed() { job.undo() }
            throw error
        }
        transactionsCommitted.wrappingAdd(1, ordering: .relaxed)
        isDirty = durability != .always
        if durability == .always { host?.synced() }
        if isDirty, jobs.contains(where: \.isSynced) {
            sync()
            if let failure { return jobs.map { $0.isSynced ? .failure(failure) : .success(()) } }
        }
        return outcomes
    }

    /// New data stops short of the last pages, so that a delete finds the pages it copies before it frees any.
    private func checkRoom(for pages: Int) throws(StoreError) {
        let wanted = pages + environment.reservedPages
        guard try environment.availablePages(atLeast: wanted) >= wanted else {
            throw StoreError(
                .full,
                "The store \(environment.directory) has reached its largest size; close or truncate sequences, or raise "
                    + "the map size and restart.")
        }
    }
}
