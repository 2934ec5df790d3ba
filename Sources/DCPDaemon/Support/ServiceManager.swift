// SPDX-License-Identifier: Apache-2.0

internal import CSystemd
internal import Glibc
internal import Synchronization

/// Notifications to systemd, and what it passes. Without systemd (no `NOTIFY_SOCKET`) nothing is sent.
enum ServiceManager {
    private static let hasBeenReady = Atomic(false)
    private static let hasTakenSockets = Atomic(false)

    /// The daemon is up: `systemctl start` returns now, and the watchdog is armed.
    static func ready(status: String) {
        hasBeenReady.store(true, ordering: .relaxed)
        notify("READY=1\nSTATUS=\(line(status))")
    }

    /// One line for `systemctl status`.
    static func status(_ status: String) { notify("STATUS=\(line(status))") }
    static func stopping() { notify("STOPPING=1\nSTATUS=draining") }

    /// The start takes longer, and is known to make progress: `TimeoutStartSec=` begins anew, with this much.
    static func extendTimeout(by duration: Duration, status: String) {
        notify("EXTEND_TIMEOUT_USEC=\(duration.microseconds)\nSTATUS=\(line(status))")
    }

    static func watchdogPing() { notify("WATCHDOG=1") }

    /// Tells that the configuration is read again, for as long as the body runs. Not before the daemon was ready:
    /// the READY=1 at the end would end a start that has not ended.
    static func reloading(_ body: () -> Void) {
        guard hasBeenReady.load(ordering: .relaxed) else { return body() }
        var now = timespec()
        clock_gettime(CLOCK_MONOTONIC, &now)
        notify("RELOADING=1\nMONOTONIC_USEC=\(now.tv_sec * 1_000_000 + now.tv_nsec / 1000)")
        body()
        notify("READY=1")
    }

    /// `WatchdogSec=` of the unit, when it watches this process.
    static var watchdogInterval: Duration? {
        var microseconds: UInt64 = 0
        // sd_watchdog_enabled(3): positive when pings are expected of this process.
        guard sd_watchdog_enabled(0, &microseconds) > 0 else { return nil }
        return .microseconds(Int64(clamping: microseconds))
    }

    /// Sockets that a socket unit passes: their descriptors, close-on-exec, from now on ours.
    static func takeSockets() -> [CInt] {
        if hasPassedSockets { hasTakenSockets.store(true, ordering: .relaxed) }
        let count = sd_listen_fds(1)
        return (0..<max(0, count)).map { SD_LISTEN_FDS_START + $0 }
    }

    /// Whether a socket unit has started this process, or holds the socket of its service.
    static var hasPassedSockets: Bool { hasTakenSockets.load(ordering: .relaxed) || sd_listen_fds(0) > 0 }

    /// A line feed would begin another assignment.
    private static func line(_ status: String) -> String { status.replacing("\n", with: " ") }

    private static func notify(_ state: String) {
        // sd_notify(3): negative on failure, which leaves nothing to do; systemd then times the start out.
        _ = sd_notify(0, state)
    }
}
