internal import Glibc

/// A place where a daemon ends as if it were killed there, for tests of recovery only.
///
/// `DCP_FAIL_POINT=NAME[:COUNT]` in the environment arms one: at the COUNT-th time (the first unless given) that the
/// process comes to it, it sends itself SIGKILL. The variable is read once. Without it a pass is one branch on a value
/// that never changes, so the places are in every build, and what is tested is what is installed.
package enum FailPoint: String, CaseIterable, Sendable {
    /// A commit's transaction holds sealed blocks, and the tail rows they replace are still there.
    case commitSealed = "commit-sealed"
    /// A commit's transaction has all it needs and is not committed.
    case commitBefore = "commit-before"
    /// Uncommitted blocks were spilled to the store, and are still in RAM, too.
    case spillAfter = "spill-after"
    /// A commit is in the store, and nobody has been told.
    case commitAfter = "commit-after"
    /// A truncation is in the store, and nobody has been told.
    case truncateAfter = "truncate-after"
    /// A rank has connected to the coordinator and is about to register for the first time.
    case registerFirst = "register-first"
    /// A rank has persisted a new epoch and is about to register in it.
    case registerAgain = "register-again"
    /// A part of a payload is in memory shared with a peer, and no frame names it.
    case ringWriting = "ring-writing"
    /// A coordinator's change of state is durable, and nobody has been told.
    case coordinatorPersisted = "coordinator-persisted"

    /// Ends the process when this point is armed and its count has come. Any thread.
    package func pass() {
        guard let armed = Armed.current, armed.point == self else { return }
        armed.pass()
    }

    /// Reads the environment; for a daemon's start, so that a test which misspells a point does not pass for it.
    /// - Throws: `.invalidConfiguration` for a value that arms nothing.
    package static func check() throws(ServiceError) {
        if case .failure(let error) = Armed.fromEnvironment { throw error }
    }
}

/// The point that the environment names.
///
/// @unchecked Sendable: `left` is changed with `mutex` held only; the mutex lives as long as the process.
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
