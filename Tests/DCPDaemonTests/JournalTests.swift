// SPDX-License-Identifier: Apache-2.0

import DCPDaemon
import Foundation
import Logging
import Testing

@Suite("Entries of the journal")
struct JournalTests {
    private func entry(_ message: String, _ metadata: Logger.Metadata, level: Logger.Level = .warning) -> JournalEntry {
        JournalEntry(
            level: level, message: message, metadata: metadata, context: ["rank"], file: "F.swift", line: 7,
            function: "f()")
    }

    @Test("metadata becomes fields, the message tells it too, the number of the event only a field")
    func fields() {
        let entry = entry(
            "Peer lost", ["peer": "2", "duration-us": "17", "reason": "a\nb", "message-id": "abc", "rank": "1"])
        let fields = entry.fields(identifier: "dcp-rank@1")
        #expect(
            fields == [
                "MESSAGE=Peer lost (duration-us: 17, peer: 2, reason: a\nb)", "PRIORITY=4",
                "SYSLOG_IDENTIFIER=dcp-rank@1", "CODE_FILE=F.swift", "CODE_LINE=7", "CODE_FUNC=f()",
                "MESSAGE_ID=abc", "DCP_DURATION_US=17", "DCP_PEER=2", "DCP_RANK=1", "DCP_REASON=a\nb",
            ])
    }

    @Test("levels are syslog's", arguments: zip(Logger.Level.allCases, [7, 7, 6, 5, 4, 3, 2]))
    func priorities(level: Logger.Level, priority: Int) {
        #expect(entry("m", [:], level: level).priority == priority)
    }

    @Test("field names hold what the journal takes")
    func names() {
        #expect(JournalEntry.fieldName("duration-us") == "DCP_DURATION_US")
        for name in ["größe =", "a b", "_x", String(repeating: "y", count: 100)] {
            let field = JournalEntry.fieldName(name)
            #expect(field.utf8.count <= 64 && field.hasPrefix("DCP_"))
            #expect(field.utf8.allSatisfy { "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_".utf8.contains($0) })
        }
    }

    @Test("each event has a unique number of 128 bits, and a text without a line that ends the catalog's entry")
    func events() {
        let events = JournalEvent.all
        #expect(Set(events.map(\.messageID)).count == events.count)
        for event in events {
            #expect(event.messageID.count == 32 && event.messageID.allSatisfy { $0.isHexDigit && !$0.isUppercase })
            #expect(!event.subject.contains("\n"))
            #expect(!event.explanation.split(separator: "\n").contains { $0.hasPrefix("-- ") })
        }
    }
}
