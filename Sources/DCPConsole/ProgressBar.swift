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
    private let unit: String
    private let start: ContinuousClock.Instant
    private let columns: Int
    private let write: (@Sendable (String) -> Void)?
    private let state = Mutex(State())

    public static let redrawInterval: Duration = .milliseconds(100)

    /// - Parameters:
    ///   - label: what is done: `prefill`.
    ///   - total: how many there are.
    ///   - unit: of what.
    ///   - columns: the terminal's width; nil takes `COLUMNS`, or 80.
    ///   - start: when it began, for the rate.
    public convenience init(
        label: String, total: Int, unit: String = "tokens", columns: Int? = nil,
        start: ContinuousClock.Instant = .now
    ) {
        let isTerminal = isatty(STDERR_FILENO) == 1
        let variable = getenv("COLUMNS").map { String(cString: $0) } ?? ""
        // One write a line: a descriptor needs no lock, and a part of a line that is lost is redrawn.
        let draw: @Sendable (String) -> Void = { text in
            let bytes = Array(text.utf8)
            _ = Glibc.write(STDERR_FILENO, bytes, bytes.count)
        }
        self.init(
            label: label, total: total, unit: unit, columns: columns ?? Int(variable) ?? 80, start: start,
            write: isTerminal ? draw : nil)
    }

    /// - Parameter write: receives what goes to the terminal; nil draws nothing.
    package init(
        label: String, total: Int, unit: String = "tokens", columns: Int, start: ContinuousClock.Instant,
        write: (@Sendable (String) -> Void)?
    ) {
        self.label = label
        self.total = total
        self.unit = unit
        self.columns = columns
        self.start = start
        self.write = write
    }

    /// Shows that so many are done.
    public func update(done: Int, at now: ContinuousClock.Instant = .now) {
        guard let write else { return }
        state.withLock { state in
            if let last = state.lastDraw, now - last < Self.redrawInterval, done < total { return }
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
        let rate = seconds > 0 ? Double(done) / seconds : 0
        var text = "  \(done)/\(total) \(unit)"
        if rate > 0 {
            text += "  \(rate < 10 ? fixed(rate, decimals: 1) : fixed(rate, decimals: 0)) \(unit)/s"
            if done < total {
                text += "  ETA \(DurationFormat.short(.seconds(Double(total - done) / rate)))"
            }
        }
        let room = columns - 1 - label.count - text.count - 4
        guard room >= 8 else { return String((label + text).prefix(max(columns - 1, 0))) }
        let width = min(room, 30)
        let filled = total > 0 ? min(max(done, 0), total) * width / total : 0
        let bar = String(repeating: "#", count: filled) + String(repeating: "-", count: width - filled)
        return "\(label)  [\(bar)]\(text)"
    }
}
