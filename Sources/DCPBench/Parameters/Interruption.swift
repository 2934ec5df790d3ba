// SPDX-License-Identifier: Apache-2.0

internal import Synchronization

/// Tells measurements, which run on threads of their own, that their task was cancelled.
public final class Interruption: Sendable {
    private let isInterrupted = Atomic<Bool>(false)

    public init() {}

    public func interrupt() { isInterrupted.store(true, ordering: .relaxed) }

    /// - Throws: `CancellationError` when it is time to end.
    public func check() throws {
        if isInterrupted.load(ordering: .relaxed) { throw CancellationError() }
    }
}
