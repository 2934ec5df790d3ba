// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// A table of text for a terminal: columns as wide as their widest cell, two spaces between them, no trailing spaces.
///
/// On a terminal that is too narrow the columns of words are clipped, the widest first, and then the lines: a wrapped table
/// is unreadable. Files and pipes get all of it.
///
/// ```
/// RANK  STATE    TOKENS
/// 0     ready     12800
/// 1     missing       -
/// ```
public struct TextTable: Sendable {
    public enum Alignment: Sendable {
        /// Right when every cell of the column is a number (with or without a unit) or `-`.
        case automatic
        case left
        case right
    }

    public struct Column: Sendable {
        public let title: String
        public let alignment: Alignment

        public init(_ title: String, alignment: Alignment = .automatic) {
            self.title = title
            self.alignment = alignment
        }
    }

    public let columns: [Column]
    public private(set) var rows: [[String]] = []

    public init(_ columns: [Column]) { self.columns = columns }

    public init(_ titles: String...) { self.init(titles.map { Column($0) }) }

    /// Adds a row of as many cells as there are columns, or the process traps.
    ///
    /// Control characters, such as a line feed in a client's name, are shown escaped: a cell stays in its row and
    /// cannot move the terminal's cursor.
    public mutating func append(_ cells: [String]) {
        precondition(cells.count == columns.count)
        rows.append(cells.map(Self.printable))
    }

    /// The table for standard output, lines separated by line feeds; none after the last.
    public func rendered() -> String { rendered(width: TerminalSize(of: STDOUT_FILENO)?.columns) }

    /// - Parameter width: the most characters of a line; nil for no limit.
    package func rendered(width: Int?) -> String {
        let right = columns.indices.map(isRightAligned)
        var widths = columns.indices.map { column in
            max(columns[column].title.count, rows.map { $0[column].count }.max() ?? 0)
        }
        if let width { Self.narrow(&widths, to: width, keeping: right) }
        func line(_ cells: [String]) -> String {
            var text = ""
            for (column, cell) in cells.enumerated() {
                let cell = Self.clipped(cell, to: widths[column])
                let padding = String(repeating: " ", count: widths[column] - cell.count)
                text += (column == 0 ? "" : "  ") + (right[column] ? padding + cell : cell + padding)
            }
            while text.last == " " { text.removeLast() }
            return width.map { Self.clipped(text, to: $0) } ?? text
        }
        return ([columns.map(\.title)] + rows).map(line).joined(separator: "\n")
    }

    /// Columns of words are not made narrower than this.
    private static let wordsMin = 12

    private static func narrow(_ widths: inout [Int], to width: Int, keeping right: [Bool]) {
        while widths.reduce(2 * (widths.count - 1), +) > width {
            let words = widths.indices.filter { !right[$0] && widths[$0] > wordsMin }
            guard let widest = words.max(by: { widths[$0] < widths[$1] }) else { return }
            widths[widest] -= 1
        }
    }

    private static func clipped(_ text: String, to width: Int) -> String {
        text.count <= width ? text : text.prefix(max(width - 1, 0)) + "…"
    }

    private func isRightAligned(_ column: Int) -> Bool {
        switch columns[column].alignment {
        case .left: return false
        case .right: return true
        case .automatic: return !rows.isEmpty && rows.allSatisfy { Self.isNumeric($0[column]) }
        }
    }

    private static func isNumeric(_ cell: String) -> Bool {
        if cell.isEmpty || cell == "-" { return true }
        let parts = cell.split(separator: " ")
        return parts.count <= 2 && parts.first.flatMap { Double($0) } != nil
    }

    static func printable(_ text: String) -> String {
        guard text.unicodeScalars.contains(where: { $0.properties.generalCategory == .control }) else { return text }
        return text.unicodeScalars.map {
            $0.properties.generalCategory == .control ? $0.escaped(asASCII: false) : String($0)
        }.joined()
    }
}
