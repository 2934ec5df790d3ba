// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPDaemon
import Foundation
import Testing

@Suite("Files generated from the tables")
struct ReferenceTests {
    private static let sources = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .deletingLastPathComponent().deletingLastPathComponent()

    private func committed(_ path: String) throws -> String {
        try String(contentsOf: Self.sources.appendingPathComponent(path), encoding: .utf8)
    }

    @Test("the article on the configuration is up to date: make reference")
    func article() throws {
        #expect(try committed("Sources/DCPCore/DCPCore.docc/Configuration.md") == ConfigurationReference.article())
    }

    @Test("the article on metrics is up to date: make reference")
    func metrics() throws {
        #expect(try committed("Sources/DCPCore/DCPCore.docc/Metrics.md") == MetricsArticle.text)
    }

    @Test("the message catalog is up to date: make reference")
    func catalog() throws { #expect(try committed("systemd/dcp.catalog") == JournalEvent.catalog) }

    @Test("the file to begin with changes nothing, and names every key")
    func sample() throws {
        let sample = ConfigurationReference.sample()
        #expect(try ConfigurationFile(sample, path: "sample").values.isEmpty)
        for key in Setting.all { #expect(sample.contains("  #\(key.name): "), "\(key.path)") }
        // With the comments taken off it is still a good file.
        let lines = sample.split(separator: "\n").map { line in
            let isKey = line.hasPrefix("  #") && !line.hasPrefix("  # ") || line.hasPrefix("    #")
            return isKey ? String(line.replacing("#", with: "", maxReplacements: 1)) : String(line)
        }
        let full = try ConfigurationFile(lines.joined(separator: "\n"), path: "sample")
        #expect(full.values.count == Setting.all.count)
    }

    @Test("the manual page shows every key, and no line that the formatter would take for its own")
    func manual() throws {
        let page = ConfigurationReference.manual(release: "1")
        for key in Setting.all { #expect(page.contains(ManualPage.escaped(key.path)), "\(key.path)") }
        #expect(ManualPage.escaped(".x\n'y\na\\b-c ") == "\\&.x\n\\&'y\na\\eb\\-c")
    }
}
