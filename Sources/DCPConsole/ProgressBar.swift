// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Synchronization

/// A line on standard error that shows how far a long command is; nothing at all when that is no terminal.
///
/// Safe to use from any thread. Redrawn at most ten times a second, so it may be told of every token.
public final class ProgressBar: Sendable {
    private struct State {
        var lastDraw: ContinuousClock.Instant?
        var isDrawn = false
    }

    private let label: String
    private let total: Int
    private let parts: Int
    private let unit: String
    private let start: ContinuousClock.Instant
    private let columns: @Sendable () -> Int
    private let write: (@Sendable (String) -> Void)?
    private let state = Mutex(State())

    public static let redrawInterval: Duration = .milliseconds(100)

    /// - Parameters:
    ///   - label: what is done: `prefill`.
    ///   - total: how many there are.
    ///   - parts: in how many parts each is done; the bar moves with every part, and shows what is done as a whole.
    ///   - unit: of what.
    ///   - start: when it began, for the rate.
    public convenience init(
        label: String, total: Int, parts: Int = 1, unit: String = "tokens", start: ContinuousClock.Instant = .now
    ) {
        let isTerminal = isatty(STDERR_FILENO) == 1
        // One write a line: a descriptor needs no lock, and a part of a line that is lost is redrawn.
        let draw: @Sendable (String) -> Void = { text in
            let bytes = Array(text.utf8)
            _ = Glibc.write(STDERR_FILENO, bytes, bytes.count)
        }
        self.init(
            label: label, total: total, parts: parts, unit: unit, start: start,
            columns: { TerminalSize(of: STDERR_FILENO)?.columns ?? Self.columnsWithoutTerminal },
            write: isTerminal ? draw : nil)
    }

    /// For a terminal that does not report its size: `COLUMNS`, if it is exported.
    private static let columnsWithoutTerminal = getenv("COLUMNS").flatMap { Int(String(cString: $0)) } ?? 80

    /// - Parameters:
    ///   - columns: the terminal's width at the moment.
    ///   - write: receives what goes to the terminal; nil draws nothing.
    package init(
        label: String, total: Int, parts: Int = 1, unit: String = "tokens", start: ContinuousClock.Instant,
        columns: @escaping @Sendable () -> Int, write: (@Sendable (String) -> Void)?
    ) {
        self.label = label
        self.total = total
        self.parts = max(parts, 1)
        self.unit = unit
        self.columns = columns
        self.start = start
        self.write = write
    }

    /// Shows the number of completed parts.
    public func update(done: Int, at now: ContinuousClock.Instant = .now) {
        guard let write else { return }
        state.withLock { state in
            if let last = state.lastDraw, now - last < Self.redrawInterval, done < total * parts { return }
            state.lastDraw = now
            state.isDrawn = true
            write("\r" + line(done: done, elapsed: now - start) + "\u{1B}[K")
        }
    }

    /// Erases the line, so that what is printed next starts on a clean one. To be called before any other output.
    public func finish() {
        guard let write else { return }
        state.withLock { state in
            if state.isDrawn { write("\r\u{1B}[K") }
            state.isDrawn = false
        }
    }

    /// `prefill  [########------------]  231/320 tokens  1840 tokens/s  ETA 2 s`, shorter than the terminal is wide.
    package func line(done: Int, elapsed: Duration) -> String {
        let seconds = elapsed.inSeconds
        let (all, columns) = (total * parts, columns())
        let rate = seconds > 0 ? Double(done) / Double(parts) / seconds : 0
        var text = "  \(done / parts)/\(total) \(unit)"
        if rate > 0 {
            text += "  \(rate < 10 ? fixed(rate, decimals: 1) : fixed(rate, decimals: 0)) \(unit)/s"
            if done < all {
                text += "  ETA \(DurationFormat.short(.seconds(Double(all - done) / Double(parts) / rate)))"
            }
        }
        let room = columns - 1 - label.count - text.count - 4
        guard room >= 8 else { return String((label + text).prefix(max(columns - 1, 0))) }
        let width = min(room, 30)
        let filled = all > 0 ? min(max(done, 0), all) * width / all : 0
        let bar = String(repeating: "#", count: filled) + String(repeating: "-", count: width - filled)
        return "\(label)  [\(bar)]\(text)"
    }
}
