// SPDX-License-Identifier: Apache-2.0

internal import CLMDB
internal import Glibc
internal import Synchronization

/// The state of the writer's thread, separate from `Writer` so that the thread does not keep its own handle alive.
///
/// @unchecked Sendable: `health` and `observer` are mutexes, `transactionsCommitted` and `busySince` are atomics, and
/// everything else is touched by the writer's thread only, after `init`.
final class WriterCore: @unchecked Sendable {
    let queue: WriteQueue
    let transactionsCommitted = Atomic(0)
    /// When the thread began its current transaction, sync or probe, in monotonic nanoseconds; 0 while it waits.
    let busySince = Atomic<UInt64>(0)
    let health = Mutex(StoreHealth())
    let observer = Mutex<(@Sendable (StoreHealth) -> Void)?>(nil)
    let syncObserver = Mutex<(@Sendable () -> Void)?>(nil)
    let environment: Environment
    let durability: Durability
    let watermarks: Watermarks
    /// nil when the writer has ended.
    var witness: SyncWitness?
    var failure: StoreError?
    /// When the disk is probed again; nil unless it refused a write.
    var nextProbe: timespec?
    /// Runs the jobs instead of a thread, for simulations.
    private let host: (any WriterHost)?
    /// Makes a change that takes no more pages than it frees.
    private let turningOver: (@Sendable (inout WriteTransaction) throws -> Void)?
    /// Another job joins a transaction only below it.
    private let groupPagesMax: Int
    /// No run of this length was found since pages were last freed.
    private var runPagesMissing = Int.max
    /// Something may be in the file that is not on the disk. At the start too: the process before may have been killed
    /// between a commit and its sync.
    private var isDirty = true
    private var isSyncScheduled = false
    private var isProbeScheduled = false
    /// With `everysec`, when the oldest unsynced commit will be synced. Nil if there is nothing to sync: an idle store
    /// has no timer.
    private var nextSync: timespec?

    init(
        environment: Environment, durability: Durability, queueDepthMax: Int, groupByteCountMax: Int,
        watermarks: Watermarks, host: (any WriterHost)?,
        turningOver: (@Sendable (inout WriteTransaction) throws -> Void)?
    ) throws(StoreError) {
        self.environment = environment
        self.durability = durability
        self.watermarks = watermarks
        self.host = host
        self.turningOver = turningOver
        groupPagesMax = groupByteCountMax / environment.pageByteCount
        queue = WriteQueue(depthMax: queueDepthMax)
        witness = try SyncWitness(environment.dataPath)
        try measure()
    }

    func submit(_ job: WriteJob, isInternal: Bool) {
        if let refusal = queue.push(job, isInternal: isInternal) { return job.completion(.failure(refusal)) }
        host?.schedule(after: .zero) { [weak self] in self?.runWaiting() }
    }

    // MARK: With a host

    /// One turn of `run`.
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
        scheduleProbe()
    }

    private func scheduleProbe() {
        guard nextProbe != nil, !isProbeScheduled else { return }
        isProbeScheduled = true
        host?.schedule(after: .seconds(1)) { [weak self] in
            guard let self else { return }
            isProbeScheduled = false
            if nextProbe != nil { probe() }
            scheduleProbe()
        }
    }

    func finish() {
        while let jobs = queue.poll() { execute(jobs) }
        if isDirty { sync() }
        witness = nil
    }

    func abandon() {
        queue.abandon()
        isDirty = false
        witness = nil
    }

    // MARK: The thread

    func run() {
        Self.nameThread("dcp-writer")
        loop: while true {
            busySince.store(0, ordering: .relaxed)
            switch queue.next(deadline: Self.earlier(nextSync, nextProbe)) {
            case .group(let jobs): execute(jobs)
            case .deadline: break
            case .end: break loop
            }
            if let due = nextSync, Self.isPast(due) { sync() }
            if let due = nextProbe, Self.isPast(due) { probe() }
        }
        if isDirty { sync() }
        busySince.store(0, ordering: .relaxed)
        witness = nil
    }

    /// For the watchdog.
    func beginsPiece() {
        guard host == nil else { return }
        var now = timespec()
        clock_gettime(CLOCK_MONOTONIC, &now)
        busySince.store(UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec), ordering: .relaxed)
    }

    /// For `top -H` and core files. Swift's Glibc lacks `pthread_setname_np`.
    private static func nameThread(_ name: String) {
        let descriptor = Glibc.open("/proc/thread-self/comm", O_WRONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return }
        _ = name.withCString { write(descriptor, $0, name.utf8.count) }
        Glibc.close(descriptor)
    }

    // MARK: Deadlines, monotonic

    static func inOneSecond() -> timespec {
        var now = timespec()
        clock_gettime(CLOCK_MONOTONIC, &now)
        return timespec(tv_sec: now.tv_sec + 1, tv_nsec: now.tv_nsec)
    }

    private static func isPast(_ due: timespec) -> Bool {
        var now = timespec()
        clock_gettime(CLOCK_MONOTONIC, &now)
        return (now.tv_sec, now.tv_nsec) >= (due.tv_sec, due.tv_nsec)
    }

    private static func earlier(_ a: timespec?, _ b: timespec?) -> timespec? {
        guard let a, let b else { return a ?? b }
        return (a.tv_sec, a.tv_nsec) <= (b.tv_sec, b.tv_nsec) ? a : b
    }

    private func sync() {
        // What cannot be trusted is not reported as synced.
        guard failure == nil else { return }
        beginsPiece()
        nextSync = nil
        isDirty = false
        do throws(StoreError) {
            try environment.sync()
            noteSync()
        } catch {
            fail(error)
        }
    }

    private func noteSync() {
        host?.synced()
        syncObserver.withLock { $0 }?()
    }

    // MARK: Transactions

    /// Runs jobs in one transaction, or in several when they write much, or one by one if that fails.
    private func execute(_ jobs: [WriteJob]) {
        var jobs = jobs
        while !jobs.isEmpty {
            if let failure {
                for job in jobs { job.completion(.failure(failure)) }
                return
            }
            beginsPiece()
            do {
                let outcomes = try attempt(jobs)
                for (job, outcome) in zip(jobs, outcomes) { job.completion(outcome) }
                jobs.removeFirst(outcomes.count)
            } catch {
                if jobs.count == 1 { return jobs[0].completion(.failure(error)) }
                for job in jobs { execute([job]) }
                return
            }
        }
    }

    /// The result of an aborted attempt.
    private struct Usage {
        /// The space that it needed, as far as it got.
        var pages = 0
        /// The pages of the value that found no run; 0 for another cause.
        var runPagesFailed = 0
    }

    /// Runs jobs in one transaction, and again for as long as another form of it may find room: with the values in pieces
    /// that found no run of pages, after LMDB has let go of what the last transaction freed, and with fewer deletions.
    ///
    /// A deletion copies pages of the trees before it frees any. On a full disk, or in a full map, the copies can take
    /// only pages that transactions before the last have freed. How many it copies is not counted, so deletions are
    /// repeated in both of the last forms.
    /// - Returns: the outcome of each job that ran, when the transaction committed or had nothing to commit: at least
    ///   the first. The others are for the next transaction.
    /// - Throws: when the transaction was aborted; every job has then been undone.
    private func attempt(_ jobs: [WriteJob]) throws -> [Result<Void, any Error>] {
        let isOptional = jobs.contains(where: \.isOptional)
        let isFreeing = jobs.allSatisfy(\.isFreeing)
        var hasTurnedOver = false
        var isScarce = false
        func canDoWithLess() -> Bool {
            guard isFreeing, !isScarce else { return false }
            if !hasTurnedOver {
                hasTurnedOver = true
                if turnOver() { return true }
            }
            isScarce = true
            return true
        }
        while true {
            var usage = Usage()
            do {
                return try run(jobs, &usage, isScarce: isScarce)
            } catch let error as StoreError where error.isOutOfPages {
                if isOptional { throw error }
                let needed = usage.pages + (isFreeing ? 0 : environment.reservedPages)
                if error.cause != nil, hasRoom(for: needed), splitMore(usage.runPagesFailed) { continue }
                if canDoWithLess() { continue }
                if !isFreeing, !hasTurnedOver, !hasRoom(for: needed), isEmpty(for: needed), turnOver() {
                    hasTurnedOver = true
                    continue
                }
                throw judged(error, pages: usage.pages)
            } catch {
                // Before another attempt: after it, lost writes would be marked as clean.
                let error = judged(error, pages: usage.pages)
                if let refusal = error as? StoreError, refusal.isRefusedByDisk, canDoWithLess() { continue }
                throw error
            }
        }
    }

    /// - Parameter isScarce: see `WriteTransaction`.
    private func run(
        _ jobs: [WriteJob], _ usage: inout Usage, isScarce: Bool = false
    ) throws -> [Result<Void, any Error>] {
        var outcomes: [Result<Void, any Error>] = []
        var ran: [WriteJob] = []
        let isFreeing = jobs.allSatisfy(\.isFreeing)
        do {
            let isOptional = jobs.contains(where: \.isOptional)
            var transaction = try WriteTransaction(
                environment, runPagesMissing: isOptional ? .max : runPagesMissing, isScarce: isScarce)
            for job in jobs {
                if !outcomes.isEmpty, transaction.pages >= groupPagesMax { break }
                let changes = transaction.changes
                ran.append(job)
                do {
                    try job.body(&transaction)
                    outcomes.append(.success(()))
                } catch {
                    outcomes.append(.failure(error))
                    usage = Usage(pages: transaction.pages, runPagesFailed: transaction.runPagesFailed)
                    // Refused before any change: the other jobs are not affected.
                    guard transaction.changes == changes, !transaction.isFailed else { throw error }
                    ran.removeLast()
                    job.undo()
                }
            }
            guard transaction.changes > 0 else { return synced(jobs, outcomes) }
            usage = Usage(pages: transaction.pages)
            if !isFreeing { try checkRoom(for: usage.pages) }
            try commit(transaction)
        } catch {
            for job in ran.reversed() { job.undo() }
            throw error
        }
        // The freed pages may form runs.
        if isFreeing { runPagesMissing = .max }
        transactionsCommitted.wrappingAdd(1, ordering: .relaxed)
        isDirty = durability != .always
        if durability == .always { noteSync() }
        if durability == .everysec, nextSync == nil, host == nil { nextSync = Self.inOneSecond() }
        committed(pages: usage.pages, isFreeing: isFreeing)
        return synced(jobs, outcomes)
    }

    /// Syncs if one of the jobs that ran requires it, even if nothing was changed: a job that is repeated finds what
    /// was done the first time, which may not be on the disk yet.
    private func synced(_ jobs: [WriteJob], _ outcomes: [Result<Void, any Error>]) -> [Result<Void, any Error>] {
        let ran = jobs.prefix(outcomes.count)
        guard isDirty, ran.contains(where: \.isSynced) else { return outcomes }
        sync()
        guard let failure else { return outcomes }
        var outcomes = outcomes
        failSynced(ran, &outcomes, failure)
        return outcomes
    }

    /// From now on writes values of this many pages, or all that it may, in pieces.
    /// - Returns: false when they were.
    private func splitMore(_ runPages: Int) -> Bool {
        guard runPagesMissing > 2 else { return false }
        runPagesMissing = (2..<runPagesMissing).contains(runPages) ? runPages : 2
        return true
    }

    /// Makes the pages freed by the last transaction usable.
    /// - Returns: false when a reader keeps them, too, or there is no page for it.
    private func turnOver() -> Bool {
        guard let turningOver, environment.reuseHorizon == environment.lastTransaction else { return false }
        var usage = Usage()
        do {
            _ = try run([WriteJob(isFreeing: true, body: turningOver, completion: { _ in })], &usage)
            return true
        } catch {
            // A sync may have failed, which counts for all that follows.
            _ = judged(error, pages: usage.pages)
            return false
        }
    }

    /// Whether a transaction can use this many pages.
    private func hasRoom(for pages: Int) -> Bool {
        (try? environment.availablePages(atLeast: pages)).map { $0 >= pages } ?? false
    }

    /// Whether this many pages are free, including those that readers hold back.
    func isEmpty(for pages: Int) -> Bool { (try? environment.emptyPages()).map { $0 >= pages } ?? false }

    /// The transaction is in the file but may never reach the disk: jobs that require a sync fail and are undone in
    /// memory; the others keep their results.
    private func failSynced(
        _ jobs: ArraySlice<WriteJob>, _ outcomes: inout [Result<Void, any Error>], _ failure: StoreError
    ) {
        for (index, job) in jobs.enumerated().reversed() where job.isSynced {
            guard case .success = outcomes[index] else { continue }
            job.undo()
            outcomes[index] = .failure(failure)
        }
    }

    /// With `always` this syncs the pages, and then the meta page.
    private func commit(_ transaction: consuming WriteTransaction) throws(StoreError) {
        let faults = environment.faults.withLock { $0 }
        if let code = faults?.write(), code != 0 { throw StoreError.lmdb(code, "commit") }
        if durability == .always, let code = faults?.sync(), code != 0 { throw StoreError.lmdb(code, "commit") }
        if transaction.freedListPages > transaction.runPagesMax { throw StoreError.lmdb(MDB_MAP_FULL, "commit") }
        try transaction.commit()
        if durability == .always { faults?.synced(environment.dataPath) }
    }

    /// New data stops short of the last pages, so that a delete finds the pages it copies before it frees any.
    private func checkRoom(for pages: Int) throws(StoreError) {
        let wanted = pages + environment.reservedPages
        let available = try environment.availablePages(atLeast: wanted)
        guard available < wanted else { return }
        guard isEmpty(for: wanted) else {
            throw StoreError(
                .full,
                "The store \(environment.directory) has reached its largest size of "
                    + "\(environment.capacityByteCount) bytes; close or truncate sequences, or raise a rank's "
                    + "--disk-limit or --map-size and restart it.")
        }
        throw StoreError(
            .full,
            "The store \(environment.directory) has room, but steps, a backup or a verification still read pages that "
                + "were just deleted: \(available * environment.pageByteCount) of the "
                + "\(wanted * environment.pageByteCount) bytes needed can be used; retry when they have ended.")
    }
}
