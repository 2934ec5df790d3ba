// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import Dispatch

/// Something that ends on another thread.
///
/// @unchecked Sendable: `result` is written before the semaphore is signalled and read after it.
final class Waiting<Value: Sendable>: @unchecked Sendable {
    private let done = DispatchSemaphore(value: 0)
    private var result: Result<Value, ServiceError>?

    func finish(_ result: Result<Value, ServiceError>) {
        self.result = result
        done.signal()
    }

    /// Blocks until `finish`; to be called once.
    func wait() throws(ServiceError) -> Value {
        done.wait()
        guard let result else { preconditionFailure("signalled without a result") }
        return try result.get()
    }
}

/// Runs an operation that ends with a completion, and blocks until it has.
func waitFor(_ start: (@escaping @Sendable (Result<Void, ServiceError>) -> Void) -> Void) throws(ServiceError) {
    let waiting = Waiting<Void>()
    start { waiting.finish($0) }
    try waiting.wait()
}
