// SPDX-License-Identifier: Apache-2.0

package import DCPRank
package import NIOCore

/// Decides whether a daemon may notify systemd's watchdog.
///
/// A value without a clock. It runs on the event loop, so a blocked loop sends nothing. It then checks the compute
/// threads: if a job has run for a whole watchdog interval without ending a piece, or jobs wait while no thread takes
/// any, the daemon serves no one, and no notification is sent. systemd then kills and restarts it, and the cluster
/// continues from the committed tokens. A piece of attention takes milliseconds, the longest append some hundred. Last
/// the store's writer, which a slow disk may keep for minutes, and a disk that hangs for ever.
package struct Watchdog {
    package enum Verdict: Equatable {
        case alive
        /// Why not, for the log.
        case stuck(String)
    }

    /// `WatchdogSec=`.
    let interval: TimeAmount
    /// The longest that one transaction or sync may take: a disk of 100 MB/s syncs 60 GB meanwhile.
    package static let writerTimeMax = TimeAmount.minutes(10)
    private var last: ComputeProgress?

    package init(interval: TimeAmount) { self.interval = interval }

    /// - Parameter writerBusySince: when the store's writer began what it is at; nil while it waits.
    package mutating func check(
        _ progress: ComputeProgress, writerBusySince: NIODeadline? = nil, now: NIODeadline
    ) -> Verdict {
        defer { last = progress }
        if let writerBusySince, now - writerBusySince > Self.writerTimeMax {
            return .stuck(
                "the store has been busy with one transaction or sync for "
                    + "\((now - writerBusySince).nanoseconds / 1_000_000_000) s, "
                    + "the limit is \(Self.writerTimeMax.nanoseconds / 1_000_000_000) s; check the disk")
        }
        if let start = progress.oldestStart, now - start > interval {
            return .stuck(
                "a computation has been running for \((now - start).nanoseconds / 1_000_000_000) s, and the watchdog "
                    + "interval is \(interval.nanoseconds / 1_000_000_000) s")
        }
        if let last, progress.waiting > 0, last.waiting > 0, progress.running == 0, last.running == 0,
            progress.finished == last.finished
        {
            return .stuck("\(progress.waiting) computations are waiting and no thread takes one")
        }
        return .alive
    }
}
