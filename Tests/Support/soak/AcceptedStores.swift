import DCPCore
import Synchronization

/// What older stores that were taken in place of newer ones can have cost the clients. Any thread.
///
/// All that was acknowledged before a copy's *period* began, and not cut since, is in the copy.
final class AcceptedStores: Sendable {
    struct State: Sendable {
        /// Rises before a copy is made.
        var period = 0
        /// How many older stores were taken.
        var count = 0
        /// What the last of them had committed of each sequence.
        var held: [SequenceID: Int] = [:]
    }

    private let value = Mutex(State())

    var state: State { value.withLock { $0 } }

    func beginPeriod() { value.withLock { $0.period += 1 } }

    func accept(_ held: [SequenceID: Int]) {
        value.withLock { state in
            state.count += 1
            state.held = held
        }
    }
}
