// SPDX-License-Identifier: Apache-2.0

internal import Foundation

/// The end of a daemon's log file, for failure reports.
enum DaemonLogFile {
    static let tailByteCountMax = 16 * 1024

    /// The last lines written after a byte offset, oldest first; empty when there is no log. Control characters become
    /// spaces: a log line must not move the cursor of the terminal that shows it.
    static func lastLines(of path: String, from start: Int, max: Int) -> [String] {
        guard let file = FileHandle(forReadingAtPath: path) else { return [] }
        defer { try? file.close() }
        guard let end = try? file.seekToEnd() else { return [] }
        let offset = Swift.max(UInt64(Swift.max(start, 0)), end > tailByteCountMax ? end - UInt64(tailByteCountMax) : 0)
        guard offset < end, (try? file.seek(toOffset: offset)) != nil, let data = try? file.readToEnd() else {
            return []
        }
        let lines = String(decoding: data, as: UTF8.self).split(separator: "\n").suffix(max)
        return lines.map { line in
            var scalars = String.UnicodeScalarView()
            for scalar in line.unicodeScalars {
                scalars.append(scalar.properties.generalCategory == .control ? " " : scalar)
            }
            return String(scalars)
        }
    }
}
