// SPDX-License-Identifier: Apache-2.0

internal import DCPRank
internal import Logging
internal import NIOCore

/// On a daemon's event loop: pings the watchdog for as long as the daemon makes progress, and keeps the line of
/// `systemctl status` true.
final class ServiceTicker {
    private let status: () -> String
    private let progress: () -> ComputeProgress
    private let writerBusySince: () -> UInt64?
    private let logger: Logger
    private var watchdog: Watchdog?
    private var hasReportedStuck = false
    private var lastStatus = ""
    private var timer: RepeatedTask?

    /// The interval of status reports, unless the watchdog needs a shorter one.
    static let periodMax = TimeAmount.seconds(2)

    /// - Parameters:
    ///   - status: asked on the loop.
    ///   - progress: of compute threads; a daemon without them has an empty one.
    ///   - writerBusySince: of its store's writer.
    init(
        logger: Logger, status: @escaping () -> String, progress: @escaping () -> ComputeProgress,
        writerBusySince: @escaping () -> UInt64?
    ) {
        self.status = status
        self.progress = progress
        self.writerBusySince = writerBusySince
        self.logger = logger
    }

    /// To be called on the loop, once the daemon is ready: systemd's watchdog begins then.
    func start(on eventLoop: any EventLoop) {
        eventLoop.preconditionInEventLoop()
        var period = Self.periodMax
        if let interval = ServiceManager.watchdogInterval {
            let amount = TimeAmount.microseconds(interval.microseconds)
            watchdog = Watchdog(interval: amount)
            // sd_watchdog_enabled(3): "It is recommended that a daemon sends a keep-alive notification message to the
            // service manager every half of the time returned here."
            period = min(period, .nanoseconds(amount.nanoseconds / 2))
        }
        let bound = NIOLoopBound(self, eventLoop: eventLoop)
        timer = eventLoop.scheduleRepeatedTask(initialDelay: .zero, delay: period) { _ in bound.value.tick() }
    }

    func stop() { timer?.cancel() }

    private func tick() {
        ping()
        let line = status()
        if line != lastStatus {
            lastStatus = line
            ServiceManager.status(line)
        }
    }

    private func ping() {
        guard watchdog != nil else { return }
        let since = writerBusySince().map { NIODeadline.uptimeNanoseconds($0) }
        switch watchdog!.check(progress(), writerBusySince: since, now: .now()) {
        case .alive:
            hasReportedStuck = false
            ServiceManager.watchdogPing()
        case .stuck(let reason):
            guard !hasReportedStuck else { return }
            hasReportedStuck = true
            logger.critical("No progress, no longer notifying the watchdog", metadata: ["reason": "\(reason)"])
        }
    }
}
