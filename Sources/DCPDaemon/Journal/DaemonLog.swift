// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import Logging
internal import Synchronization

/// A daemon's log: plain entries through `logger`, events with their number, and a limit of entries per cause.
///
/// Safe to use from any thread.
final class DaemonLog: Sendable {
    let logger: Logger
    private let level: DaemonLogHandler.Level
    private let limit = Mutex(RateLimit())
    private let start = ContinuousClock.now

    /// - Parameter rank: the field DCP_RANK of every entry.
    init(label: String, level: Logger.Level, rank: RankIndex? = nil) {
        let shared = DaemonLogHandler.Level(level)
        self.level = shared
        logger = Logger(label: label) { label in
            var handler = DaemonLogHandler(label: label, level: shared)
            if let rank { handler.metadata["rank"] = "\(rank.value)" }
            return handler
        }
    }

    /// From now on, for every copy of the logger.
    func set(level new: Logger.Level) { level.current = new }

    /// Writes an event, unless its cause has been written too often lately.
    ///
    /// - Parameter cause: what makes two entries of this event news of one thing: a peer and an error code, say.
    func write(
        _ event: JournalEvent, _ level: Logger.Level, _ message: Logger.Message, cause: String = "",
        _ metadata: Logger.Metadata = [:], file: String = #fileID, function: String = #function, line: UInt = #line
    ) {
        guard level >= logger.logLevel else { return }
        let verdict = limit.withLock { $0.admit(event.messageID + cause, now: ContinuousClock.now - start) }
        guard verdict.isWritten else { return }
        var fields = metadata
        fields[JournalEntry.messageIDKey] = "\(event.messageID)"
        if verdict.suppressed > 0 { fields["suppressed"] = "\(verdict.suppressed)" }
        logger.log(level: level, message, metadata: fields, file: file, function: function, line: line)
    }
}

extension Duration {
    /// For DCP_DURATION_US.
    var microseconds: Int64 {
        components.seconds * 1_000_000 + components.attoseconds / 1_000_000_000_000
    }
}
