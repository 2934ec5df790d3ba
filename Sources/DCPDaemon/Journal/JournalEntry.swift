// SPDX-License-Identifier: Apache-2.0

package import Logging

/// One entry as fields and as a line. swift-log's metadata become `DCP_` fields: `duration-us` is `DCP_DURATION_US`.
package struct JournalEntry {
    /// Metadata that is the journal's own and is not shown in the line.
    static let messageIDKey = "message-id"

    package var level: Logger.Level
    package var message: String
    package var metadata: Logger.Metadata
    /// Keys that every entry of the daemon has: fields, but no news in the line.
    package var context: Set<String>
    package var file: String
    package var line: UInt
    package var function: String

    package init(
        level: Logger.Level, message: String, metadata: Logger.Metadata, context: Set<String> = [], file: String,
        line: UInt, function: String
    ) {
        self.level = level
        self.message = message
        self.metadata = metadata
        self.context = context
        self.file = file
        self.line = line
        self.function = function
    }

    /// syslog(3)'s levels; what is debug to us is debug to it.
    package var priority: Int {
        switch level {
        case .trace, .debug: 7
        case .info: 6
        case .notice: 5
        case .warning: 4
        case .error: 3
        case .critical: 2
        }
    }

    private var details: [(key: String, value: String)] {
        metadata.filter { $0.key != Self.messageIDKey }.sorted { $0.key < $1.key }.map { ($0.key, "\($0.value)") }
    }

    /// `Peer lost, its steps are aborted (peer 2, reason: it closed the connection)`: for people, who see no fields.
    package var text: String {
        let shown = details.filter { !context.contains($0.key) }
        guard !shown.isEmpty else { return message }
        return message + " (" + shown.map { "\($0.key): \($0.value)" }.joined(separator: ", ") + ")"
    }

    /// `FIELD=value`, as sd_journal_send(3) takes them; a value may hold line feeds.
    package func fields(identifier: String) -> [String] {
        var fields = [
            "MESSAGE=\(text)", "PRIORITY=\(priority)", "SYSLOG_IDENTIFIER=\(identifier)", "CODE_FILE=\(file)",
            "CODE_LINE=\(line)", "CODE_FUNC=\(function)",
        ]
        if let id = metadata[Self.messageIDKey] { fields.append("MESSAGE_ID=\(id)") }
        for (key, value) in details { fields.append("\(Self.fieldName(key))=\(value)") }
        return fields
    }

    /// The journal takes A to Z, 0 to 9 and underscores, up to 64 of them.
    package static func fieldName(_ key: String) -> String {
        let name = key.uppercased().utf8.map { byte -> Character in
            let isAllowed =
                (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(byte)
                || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
            return isAllowed ? Character(UnicodeScalar(byte)) : "_"
        }
        return String(("DCP_" + String(name)).prefix(64))
    }
}
