// SPDX-License-Identifier: Apache-2.0

import DCPCore
import UnixSignals

/// Runs a body that is cancelled by SIGINT or SIGTERM, so that what it started is taken down again.
/// - Throws: what the body throws; after a signal `CancellationError`, because then what fails fails by it.
func interruptible<Result: Sendable>(_ body: @escaping @Sendable () async throws -> Result) async throws -> Result {
    let signals = await UnixSignalsSequence(trapping: .sigint, .sigterm)
    return try await withThrowingTaskGroup(of: Result?.self) { group in
        group.addTask { try await body() }
        group.addTask {
            for await _ in signals { return nil }
            return nil
        }
        let first = try await group.next()
        group.cancelAll()
        if let first, let result = first { return result }
        // After a signal, everything that the body started stops before the program does.
        if let late = try? await group.next(), let result = late { return result }
        throw CancellationError()
    }
}
