// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import NIOPosix

/// One thread for work that must not keep anything else from the cores: it has the lowest priority there is.
final class BackgroundThread: Sendable {
    private let pool = NIOThreadPool(numberOfThreads: 1)

    init() {
        pool.start()
        // On Linux this is the calling thread's own; man setpriority: "a per-thread attribute".
        submit { _ = setpriority(Int32(PRIO_PROCESS.rawValue), 0, 19) }
    }

    /// Jobs run one after the other. Dropped after `stop`.
    func submit(_ job: @escaping @Sendable () -> Void) {
        pool.submit { state in
            if case .active = state { job() }
        }
    }

    /// Ends the thread after the job that runs; does not wait for it.
    func stop() { pool.shutdownGracefully { _ in } }
}
