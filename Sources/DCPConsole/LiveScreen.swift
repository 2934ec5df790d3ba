// SPDX-License-Identifier: Apache-2.0

internal import Dispatch
internal import Glibc
internal import Synchronization

/// A terminal that shows one page again and again, on its alternate screen.
///
/// Closing the screen restores the terminal's contents. Keys are read without waiting for a line; signals stay the
/// program's to handle.
public final class LiveScreen: Sendable {
    /// What is pressed; ends with the terminal. For one reader.
    public let keys: AsyncStream<Character>
    private let saved: termios
    // Made and cancelled by this object alone, and safe to use from any thread.
    nonisolated(unsafe) private let source: any DispatchSourceRead
    private let isOpen = Mutex(true)

    /// - Returns: nil when standard output or standard input is no terminal.
    public init?() {
        var settings = termios()
        guard isatty(STDOUT_FILENO) == 1, isatty(STDIN_FILENO) == 1, tcgetattr(STDIN_FILENO, &settings) == 0 else {
            return nil
        }
        saved = settings
        settings.c_lflag &= ~tcflag_t(ICANON | ECHO)
        tcsetattr(STDIN_FILENO, TCSANOW, &settings)
        let (keys, pressed) = AsyncStream.makeStream(of: Character.self)
        self.keys = keys
        source = DispatchSource.makeReadSource(fileDescriptor: STDIN_FILENO, queue: .global())
        source.setEventHandler {
            var key: UInt8 = 0
            guard read(STDIN_FILENO, &key, 1) == 1 else { return pressed.finish() }
            pressed.yield(Character(UnicodeScalar(key)))
        }
        source.resume()
        // xterm's private modes, which all terminals in use have: the alternate screen, the cursor hidden.
        Self.write("\u{1B}[?1049h\u{1B}[?25l")
    }

    deinit { close() }

    /// Restores the terminal. Idempotent.
    public func close() {
        isOpen.withLock { isOpen in
            guard isOpen else { return }
            isOpen = false
            source.cancel()
            Self.write("\u{1B}[?25h\u{1B}[?1049l")
            var settings = saved
            tcsetattr(STDIN_FILENO, TCSANOW, &settings)
        }
    }

    /// Shows a page: what does not fit is cut off, never wrapped.
    public func show(_ page: String) {
        let size = TerminalSize(of: STDOUT_FILENO)
        let (rows, columns) = (size?.rows ?? 24, size?.columns ?? 80)
        Self.write(
            "\u{1B}[H" + Self.fitted(page, rows: rows, columns: columns).joined(separator: "\u{1B}[K\n")
                + "\u{1B}[K\u{1B}[J")
    }

    static func fitted(_ page: String, rows: Int, columns: Int) -> [String] {
        page.split(separator: "\n", omittingEmptySubsequences: false).prefix(rows).map { String($0.prefix(columns)) }
    }

    private static func write(_ text: String) {
        var bytes = Array(text.utf8)[...]
        while !bytes.isEmpty {
            let count = bytes.withUnsafeBytes { Glibc.write(STDOUT_FILENO, $0.baseAddress, $0.count) }
            guard count > 0 else { return }
            bytes = bytes.dropFirst(count)
        }
    }
}
