package import DCPRank
package import NIOCore

/// Whether a daemon may tell systemd that it is alive. A value without a clock.
///
/// It is asked on the event loop, so the loop turns or nobody asks. It then looks at the compute threads: a job that has
/// run for a whole watchdog interval without ending a piece, or jobs that wait while no thread takes any up, is a daemon
/// that serves nobody, and no ping is sent. systemd then kills and restarts it; the cluster goes on from what is
/// committed. A piece of attention takes milliseconds, the longest append some hundred.
package struct Watchdog {
    package enum Verdict: Equatable {
        case alive
        /// Why not, for the log.
        case stuck(String)
    }

    /// `WatchdogSec=`.
    let interval: TimeAmount
    private var last: ComputeProgress?

    package init(interval: TimeAmount) { self.interval = interval }

    package mutating func check(_ progress: ComputeProgress, now: NIODeadline) -> Verdict {
        defer { last = progress }
        if let start = progress.oldestStart, now - start > interval {
            return .stuck(
                "a computation has gone on for \((now - start).nanoseconds / 1_000_000_000) s, the watchdog interval is "
                    + "\(interval.nanoseconds / 1_000_000_000) s")
        }
        if let last, progress.waiting > 0, last.waiting > 0, progress.running == 0, last.running == 0,
            progress.finished == last.finished
        {
            return .stuck("\(progress.waiting) computations wait and no thread takes one up")
        }
        return .alive
    }
}
