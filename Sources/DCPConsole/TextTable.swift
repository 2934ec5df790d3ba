// SPDX-License-Identifier: Apache-2.0

/// A table of text for a terminal: columns as wide as their widest cell, two spaces between them, no trailing spaces.
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

    /// The table, lines separated by line feeds; none after the last.
    public func rendered() -> String {
        let widths = columns.indices.map { column in
            max(columns[column].title.count, rows.map { $0[column].count }.max() ?? 0)
        }
        let right = columns.indices.map(isRightAligned)
        func line(_ cells: [String]) -> String {
            var text = ""
            for (column, cell) in cells.enumerated() {
                let padding = String(repeating: " ", count: widths[column] - cell.count)
                text += (column == 0 ? "" : "  ") + (right[column] ? padding + cell : cell + padding)
            }
            while text.last == " " { text.removeLast() }
            return text
        }
        return ([columns.map(\.title)] + rows).map(line).joined(separator: "\n")
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
