// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// Lines on standard error for the user of a command; a serving daemon uses its log instead.
enum StandardError {
    static func write(_ text: String) {
        let line = Array((text + "\n").utf8)
        _ = Glibc.write(STDERR_FILENO, line, line.count)
    }
}
