// SPDX-License-Identifier: Apache-2.0

internal import Foundation

/// Runs blocking work on a separate thread, because tasks share few threads.
public func onOwnThread<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value {
    try await withCheckedThrowingContinuation { continuation in
        Thread.detachNewThread { continuation.resume(with: Result { try body() }) }
    }
}
