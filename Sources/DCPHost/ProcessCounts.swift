// SPDX-License-Identifier: Apache-2.0

internal import Foundation

/// The kernel's counters of a process, from a file of lines with a name and a number: `/proc/PID/status`,
/// `/proc/PID/io`. See proc(5).
public struct ProcessCounts: Sendable {
    private let numbers: [Substring: Int]

    /// - Returns: nil when the file cannot be read, as that of a process which has ended.
    public init?(path: String) {
        guard let text = try? String(contentsOfFile: path, encoding: .utf8) else { return nil }
        numbers = Dictionary(
            text.split(separator: "\n").compactMap { line in
                let parts = line.split(separator: ":", maxSplits: 1)
                guard parts.count == 2,
                    let value = parts[1].split(whereSeparator: \.isWhitespace).first.flatMap({ Int($0) })
                else { return nil }
                return (parts[0], value)
            }, uniquingKeysWith: { first, _ in first })
    }

    /// In the unit of the file; nil for a name that it has not.
    public subscript(name: String) -> Int? { numbers[Substring(name)] }

    /// Memory of a process that no file has.
    /// - Returns: nil for one that has ended.
    public static func anonymousByteCount(of process: Int) -> Int? {
        ProcessCounts(path: "/proc/\(process)/status")?["RssAnon"].map { $0 * 1024 }
    }
}
