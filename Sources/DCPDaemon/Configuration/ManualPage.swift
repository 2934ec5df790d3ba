// SPDX-License-Identifier: Apache-2.0

/// A manual page in the macros of man(7).
package struct ManualPage {
    package private(set) var text: String

    package init(name: String, section: Int, release: String, title: String) {
        text = ".TH \(Self.escaped(name).uppercased()) \(section) \"\" \"dcp \(release)\" \"\(title)\"\n.nh\n.ad l\n"
    }

    package mutating func heading(_ title: String) { text += ".SH \(Self.escaped(title))\n" }
    package mutating func subheading(_ title: String) { text += ".SS \(Self.escaped(title))\n" }
    package mutating func paragraph(_ body: String) { text += ".PP\n\(Self.escaped(body))\n" }
    package mutating func item(_ term: String) { text += ".TP\n.B \(Self.escaped(term))\n" }
    package mutating func body(_ body: String) { text += "\(Self.escaped(body))\n" }
    package mutating func breakLine() { text += ".br\n" }
    /// What is written in the language of the formatter already.
    package mutating func line(_ raw: String) { text += "\(raw)\n" }

    package mutating func verbatim(_ lines: String) { text += ".PP\n.EX\n\(Self.escaped(lines))\n.EE\n" }

    /// `\` and `-` are the formatter's, and so is a line that begins with `.` or `'`. Spaces at the end of a line stay out.
    package static func escaped(_ body: String) -> String {
        body.split(separator: "\n", omittingEmptySubsequences: false).map { line in
            var line = line
            while line.last == " " { line.removeLast() }
            let safe = line.replacing("\\", with: "\\e").replacing("-", with: "\\-")
            return safe.hasPrefix(".") || safe.hasPrefix("'") ? "\\&" + safe : String(safe)
        }.joined(separator: "\n")
    }
}
