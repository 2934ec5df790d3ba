// SPDX-License-Identifier: Apache-2.0

internal import NIOCore

extension Cluster {
    /// Runs tasks on the thread that sends this client's requests and receives the answers.
    ///
    /// A task elsewhere changes threads twice for each request. A program that has little else to do between the layers
    /// of a token can avoid that:
    ///
    /// ```swift
    /// let answers = try await withTaskExecutorPreference(cluster.executor) {
    ///     try await decode(token, on: cluster)  // a step for each layer
    /// }
    /// ```
    ///
    /// While such a task computes, this client neither sends nor receives, nor do others of the process that have the
    /// thread; it must not block.
    public nonisolated var executor: any TaskExecutor { EventLoopExecutor(eventLoop: eventLoop) }
}

/// NIO has executors of event loops for actors alone.
private final class EventLoopExecutor: TaskExecutor {
    private let eventLoop: any EventLoop

    init(eventLoop: any EventLoop) { self.eventLoop = eventLoop }

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        eventLoop.execute { job.runSynchronously(on: self.asUnownedTaskExecutor()) }
    }
}
