// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// How large a terminal is now; it may be resized at any time.
package struct TerminalSize: Sendable {
    package var rows: Int
    package var columns: Int

    /// Of the terminal of a descriptor; nil if it is not a terminal, or does not report its size.
    package init?(of descriptor: CInt) {
        var size = winsize()
        guard ioctl(descriptor, UInt(TIOCGWINSZ), &size) == 0, size.ws_row > 0, size.ws_col > 0 else { return nil }
        (rows, columns) = (Int(size.ws_row), Int(size.ws_col))
    }
}
