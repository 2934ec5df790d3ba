// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPObservability
internal import Foundation
internal import Synchronization

/// The results of a coordinator's canaries. Any thread.
final class CanaryRecord: Sendable {
    private struct State {
        var lastSuccess: (instant: ContinuousClock.Instant, secondsSince1970: Double)?
        /// Of the last canary, when it failed.
        var failure: ServiceError?
        var durations = Histogram(.seconds)
        var failures = CauseCounts([.notReady, .rankUnavailable, .deadlineExceeded])
    }

    private let state = Mutex(State())

    /// - Returns: whether the one before it had failed.
    func succeeded(after duration: Duration) -> Bool {
        state.withLock { state in
            let hadFailed = state.failure != nil
            state.lastSuccess = (.now, Date().timeIntervalSince1970)
            state.failure = nil
            state.durations.observe(UInt64(max(duration / .nanoseconds(1), 0)))
            return hadFailed
        }
    }

    /// - Returns: whether the one before it had not.
    func failed(_ error: ServiceError) -> Bool {
        state.withLock { state in
            let isNew = state.failure == nil
            state.failure = error
            state.failures.count(error.code)
            return isNew
        }
    }

    var failure: ServiceError? { state.withLock { $0.failure } }
    var age: Duration? { state.withLock { $0.lastSuccess }.map { .now - $0.instant } }

    func add(to exposition: inout Exposition) {
        let state = state.withLock { $0 }
        exposition.add(.canaryLast, state.lastSuccess?.secondsSince1970 ?? 0)
        exposition.add(.canaryDuration, state.durations)
        exposition.add(.canariesFailed, state.failures)
    }
}
