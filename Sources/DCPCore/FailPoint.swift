// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// A place at which a daemon can kill itself, only for tests of recovery.
///
/// `DCP_FAIL_POINT=NAME[:COUNT]` in the environment arms one: when the process reaches it for the COUNT-th time (by
/// default the first), it sends itself SIGKILL. The variable is read once. Without it a fail point costs one branch on
/// a constant, so fail points are in every build, and tests run the installed code.
package enum FailPoint: String, CaseIterable, Sendable {
    /// A commit's transaction has sealed blocks, and the tail rows that they replace still exist.
    case commitSealed = "commit-sealed"
    /// A commit's transaction is complete but not committed.
    case commitBefore = "commit-before"
    /// Uncommitted blocks were spilled to the store and are still in RAM.
    case spillAfter = "spill-after"
    /// A commit is in the store, but not acknowledged.
    case commitAfter = "commit-after"
    /// A truncation is in the store, but not acknowledged.
    case truncateAfter = "truncate-after"
    /// A rank has connected to the coordinator and is about to register for the first time.
    case registerFirst = "register-first"
    /// A rank has persisted a new epoch and is about to register in it.
    case registerAgain = "register-again"
    /// Part of a payload is in memory shared with a peer, and no frame names it.
    case ringWriting = "ring-writing"
    /// A coordinator's change of state is durable, but not acknowledged.
    case coordinatorPersisted = "coordinator-persisted"

    /// Kills the process if this point is armed and its count is reached. Any thread.
    package func pass() {
        guard let armed = Armed.current, armed.point == self else { return }
        armed.pass()
    }

    /// Reads the environment at a daemon's start, so that a test with a misspelled fail point does not pass.
    /// - Throws: `.invalidConfiguration` for a value that names no fail point.
    package static func check() throws(ServiceError) {
        if case .failure(let error) = Armed.fromEnvironment { throw error }
    }
}

/// The fail point in the environment.
///
/// @unchecked Sendable: `left` is changed only with `mutex` held; the mutex lives as long as the process.
private final class Armed: @unchecked Sendable {
    let point: FailPoint
    private var left: Int
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)

    static let fromEnvironment: Result<Armed?, ServiceError> = {
        guard let value = getenv("DCP_FAIL_POINT").map({ String(cString: $0) }), !value.isEmpty else {
            return .success(nil)
        }
        let parts = value.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count <= 2, let point = FailPoint(rawValue: String(parts[0])),
            let count = parts.count == 1 ? 1 : Int(parts[1]), count >= 1
        else {
            let names = FailPoint.allCases.map(\.rawValue).joined(separator: ", ")
            return .failure(
                ServiceError(
                    .invalidConfiguration,
                    "DCP_FAIL_POINT=\(value) is not NAME or NAME:COUNT, where NAME is one of \(names). It is for "
                        + "tests only; unset it."
                ))
        }
        return .success(Armed(point, count: count))
    }()

    static let current: Armed? = (try? fromEnvironment.get()) ?? nil

    private init(_ point: FailPoint, count: Int) {
        self.point = point
        left = count
        pthread_mutex_init(mutex, nil)
    }

    func pass() {
        pthread_mutex_lock(mutex)
        left -= 1
        let isDue = left == 0
        pthread_mutex_unlock(mutex)
        if isDue { kill(getpid(), SIGKILL) }
    }
}
