// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Logging
internal import Synchronization

/// Entries with fields when systemd runs the daemon, lines when a person does.
struct DaemonLogHandler: LogHandler {
    /// Shared by all copies, so that a reload reaches loggers that were handed out before.
    final class Level: Sendable {
        private let value: Mutex<Logger.Level>
        init(_ level: Logger.Level) { value = Mutex(level) }

        var current: Logger.Level {
            get { value.withLock { $0 } }
            set { value.withLock { $0 = newValue } }
        }
    }

    let label: String
    let level: Level
    var metadata: Logger.Metadata = [:]
    var metadataProvider: Logger.MetadataProvider?

    var logLevel: Logger.Level {
        get { level.current }
        set { level.current = newValue }
    }

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        var fields = metadata
        fields.merge(event.metadata ?? [:]) { $1 }
        let entry = JournalEntry(
            level: event.level, message: "\(event.message)", metadata: fields,
            context: Set(metadata.keys).subtracting(event.metadata?.keys.map { $0 } ?? []), file: event.file,
            line: event.line, function: event.function)
        if Journal.isConnected, Journal.send(entry.fields(identifier: label)) { return }
        // One write a line, so that lines of several threads do not mix.
        let line = Array("\(Self.timestamp()) \(entry.level) \(label): \(entry.text)\n".utf8)
        _ = Glibc.write(STDERR_FILENO, line, line.count)
    }

    /// Local time with its offset, as ISO 8601 writes it.
    private static func timestamp() -> String {
        var now = timespec()
        clock_gettime(CLOCK_REALTIME, &now)
        var parts = tm()
        localtime_r(&now.tv_sec, &parts)
        return withUnsafeTemporaryAllocation(of: CChar.self, capacity: 64) { buffer in
            let count = strftime(buffer.baseAddress!, buffer.count, "%Y-%m-%dT%H:%M:%S%z", &parts)
            return String(decoding: buffer.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
        }
    }
}
