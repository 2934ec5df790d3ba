// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// The bounded queue between any thread and the writer's.
///
/// A pthread mutex and condition: `Synchronization.Mutex` has no condition to wait on, and the writer must not hold a
/// thread of the cooperative pool.
///
/// @unchecked Sendable: `jobs`, `isStopped` are read and written with `mutex` held only; the mutex and the condition
/// are made for use by all threads and live at stable addresses until deinit.
final class WriteQueue: @unchecked Sendable {
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
    private let depthMax: Int
    private var jobs: [WriteJob] = []
    private var isStopped = false

    enum Next {
        /// Jobs for one transaction, in the order they came.
        case group([WriteJob])
        /// The deadline passed without a job.
        case deadline
        /// Stopped, and no job is left.
        case end
    }

    init(depthMax: Int) {
        self.depthMax = depthMax
        pthread_mutex_init(mutex, nil)
        var attributes = pthread_condattr_t()
        pthread_condattr_init(&attributes)
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
        pthread_cond_init(condition, &attributes)
        pthread_condattr_destroy(&attributes)
    }

    /// - Parameter isInternal: for the store's own jobs, which are never refused for lack of room and do not count
    ///   against others.
    func push(_ job: WriteJob, isInternal: Bool) -> StoreError? {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        if isStopped { return StoreError(.closed, "The store is being closed.") }
        guard isInternal || jobs.count < depthMax || jobs.count(where: { !$0.isInternal }) < depthMax else {
            return StoreError(.overloaded, "\(depthMax) writes are waiting for the store, which is the limit; retry.")
        }
        var job = job
        job.isInternal = isInternal
        jobs.append(job)
        pthread_cond_signal(condition)
        return nil
    }

    /// Refuses further jobs; waiting jobs still run.
    func stop() {
        pthread_mutex_lock(mutex)
        isStopped = true
        pthread_cond_signal(condition)
        pthread_mutex_unlock(mutex)
    }

    /// Waits for jobs, at most until `deadline` (monotonic) if there is one. Writer thread.
    func next(deadline: timespec?) -> Next {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        while jobs.isEmpty {
            if isStopped { return .end }
            if var deadline {
                if pthread_cond_timedwait(condition, mutex, &deadline) == ETIMEDOUT { return .deadline }
            } else {
                pthread_cond_wait(condition, mutex)
            }
        }
        let count = groupCount()
        let group = Array(jobs[..<count])
        jobs.removeFirst(count)
        return .group(group)
    }

    /// Like `next`, without waiting; nil if there is no job.
    func poll() -> [WriteJob]? {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        guard !jobs.isEmpty else { return nil }
        let count = groupCount()
        let group = Array(jobs[..<count])
        jobs.removeFirst(count)
        return group
    }

    /// Refuses further jobs and drops waiting ones without running them.
    func abandon() {
        pthread_mutex_lock(mutex)
        isStopped = true
        let dropped = jobs
        jobs = []
        pthread_mutex_unlock(mutex)
        // Released without the mutex held: a job may hold the last reference to the owner of this queue.
        withExtendedLifetime(dropped) {}
    }

    /// All waiting jobs up to the first that changes what an earlier one of them touches, or touches what one changes.
    private func groupCount() -> Int {
        var changed: Set<WriteJob.Key> = []
        var read: Set<WriteJob.Key> = []
        for (index, job) in jobs.enumerated() {
            let isInTheWay =
                job.keys.contains { changed.contains($0) || read.contains($0) }
                || job.readKeys.contains(where: changed.contains)
            if index > 0, job.isAlone || isInTheWay { return index }
            if job.isAlone { return 1 }
            changed.formUnion(job.keys)
            read.formUnion(job.readKeys)
        }
        return jobs.count
    }

    deinit {
        pthread_cond_destroy(condition)
        pthread_mutex_destroy(mutex)
        condition.deallocate()
        mutex.deallocate()
    }
}
