public import NIOCore
internal import Synchronization

/// What the compute threads are at, at one moment.
public struct ComputeProgress: Hashable, Sendable {
    /// Jobs that no thread has taken up.
    public var waiting = 0
    public var running = 0
    /// Jobs that have ended since the start.
    public var finished: UInt64 = 0
    /// When the job that has shown nothing for longest was taken up, or a piece of it ended.
    public var oldestStart: NIODeadline?

    public init(waiting: Int = 0, running: Int = 0, finished: UInt64 = 0, oldestStart: NIODeadline? = nil) {
        self.waiting = waiting
        self.running = running
        self.finished = finished
        self.oldestStart = oldestStart
    }
}

/// Keeps count of a pool's jobs. Two short critical sections a job and one a piece; either is 10 us or more.
final class ComputeProgressMeter: Sendable {
    private struct State {
        var waiting = 0
        var finished: UInt64 = 0
        var nextJob: UInt64 = 0
        /// As many as there are threads at most.
        var running: [UInt64: NIODeadline] = [:]
    }

    private let state = Mutex(State())

    var progress: ComputeProgress {
        state.withLock { state in
            ComputeProgress(
                waiting: state.waiting, running: state.running.count, finished: state.finished,
                oldestStart: state.running.values.min())
        }
    }

    func submitted() { state.withLock { $0.waiting += 1 } }
    func dropped() { state.withLock { $0.waiting -= 1 } }

    /// - Returns: the job's number for `ended`.
    func began() -> UInt64 {
        let now = NIODeadline.now()
        return state.withLock { state in
            state.waiting -= 1
            state.nextJob += 1
            state.running[state.nextJob] = now
            return state.nextJob
        }
    }

    /// A piece of the job has ended.
    func goesOn(_ job: UInt64) {
        let now = NIODeadline.now()
        state.withLock { $0.running[job] = now }
    }

    func ended(_ job: UInt64) {
        state.withLock { state in
            state.running[job] = nil
            state.finished += 1
        }
    }
}
