// SPDX-License-Identifier: Apache-2.0

/// The entries of /proc/cpuinfo for the first processor, by their names there: `model name`, `CPU part`.
package struct ProcessorInformation: Sendable {
    private var values: [String: String] = [:]

    package init(_ text: String) {
        for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
            let parts = line.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false).map(Self.trimmed)
            // The first processor's lines end with an empty line.
            if parts[0].isEmpty {
                if values.isEmpty { continue } else { break }
            }
            if parts.count == 2, !parts[1].isEmpty { values[parts[0]] = parts[1] }
        }
    }

    package subscript(_ name: String) -> String? { values[name] }

    private static func trimmed(_ text: Substring) -> String {
        let start = text.drop(while: \.isWhitespace)
        return String(start.dropLast(start.reversed().prefix(while: \.isWhitespace).count))
    }
}
