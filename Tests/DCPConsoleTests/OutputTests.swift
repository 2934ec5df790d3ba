// SPDX-License-Identifier: Apache-2.0

import DCPConsole
import DCPCore
import Synchronization
import Testing

@Suite("Tables, JSON, progress, exit status")
struct OutputTests {
    @Test("columns align; numbers and missing numbers to the right; no trailing spaces")
    func table() {
        var table = TextTable("RANK", "STATE", "TOKENS", "STORE")
        table.append(["0", "ready", "12800", "64.0 MiB"])
        table.append(["10", "missing", "-", "-"])
        let expected = """
            RANK  STATE    TOKENS     STORE
               0  ready     12800  64.0 MiB
              10  missing       -         -
            """
        #expect(table.rendered() == expected)
    }

    @Test("an explicit alignment wins, and a table without rows is its titles")
    func alignment() {
        var table = TextTable([.init("NAME"), .init("N", alignment: .left), .init("X", alignment: .right)])
        #expect(table.rendered() == "NAME  N  X")
        table.append(["a", "1", "left"])
        #expect(table.rendered() == "NAME  N     X\na     1  left")
    }

    @Test("a name with control characters stays in its cell")
    func controlCharacters() {
        var table = TextTable("NAME")
        table.append(["a\nb\u{1B}[2J"])
        #expect(table.rendered() == "NAME\na\\nb\\u{1B}[2J")
    }

    @Test("a table that is too wide loses the ends of words first, then those of lines")
    func narrow() {
        var table = TextTable("SEQUENCE", "OWNER", "TOKENS")
        table.append(["a-conversation-of-many-words", "client:someone", "12800"])
        #expect(
            table.rendered(width: 40) == """
                SEQUENCE          OWNER           TOKENS
                a-conversation-…  client:someone   12800
                """)
        #expect(
            table.rendered(width: 24) == """
                SEQUENCE      OWNER    …
                a-conversat…  client:so…
                """)
        #expect(table.rendered(width: 200) == table.rendered(width: nil))
        for width in 1...60 {
            #expect(table.rendered(width: width).split(separator: "\n").allSatisfy { $0.count <= width })
        }
    }

    private struct Status: Encodable {
        var headGroups = 2
        var lse: Float = -.infinity
        var bySequence = ["camelName/1": 0.1]
    }

    @Test("JSON has sorted snake_case keys, leaves names that are data alone, and writes minus infinity")
    func json() throws {
        let expected = """
            {
              "by_sequence" : {
                "camelName/1" : 0.1
              },
              "head_groups" : 2,
              "lse" : "-inf"
            }

            """
        #expect(try JSONOutput.string(Status()) == expected)
    }

    /// What a bar wrote, in order.
    private final class Terminal: Sendable {
        private let text = Mutex<[String]>([])
        var written: [String] { text.withLock { $0 } }
        func write(_ line: String) { text.withLock { $0.append(line) } }
    }

    @Test("a bar redraws at most ten times a second, always at the end, and erases itself once")
    func progress() {
        let terminal = Terminal()
        let start = ContinuousClock.now
        let bar = ProgressBar(
            label: "decode", total: 320, start: start, columns: { 80 }, write: terminal.write)
        bar.update(done: 80, at: start + .seconds(1))
        bar.update(done: 81, at: start + .milliseconds(1050))
        bar.update(done: 320, at: start + .milliseconds(1060))
        bar.finish()
        bar.finish()
        #expect(
            terminal.written == [
                "\rdecode  [#######-----------------------]  80/320 tokens  80 tokens/s  ETA 3 s\u{1B}[K",
                "\rdecode  [##############################]  320/320 tokens  302 tokens/s\u{1B}[K", "\r\u{1B}[K",
            ])
    }

    @Test("work in parts is counted as a whole, at the rate of the whole, and each part moves the bar")
    func parts() {
        let bar = ProgressBar(label: "submit", total: 320, parts: 32, start: .now, columns: { 80 }, write: nil)
        #expect(
            bar.line(done: 160 * 32 + 31, elapsed: .seconds(2))
                == "submit  [###############---------------]  160/320 tokens  80 tokens/s  ETA 2 s")
        #expect(bar.line(done: 31, elapsed: .zero) == "submit  [------------------------------]  0/320 tokens")
        #expect(
            bar.line(done: 320 * 32, elapsed: .seconds(2))
                == "submit  [##############################]  320/320 tokens  160 tokens/s")
    }

    @Test("a terminal that is resized gets lines of its new width")
    func resized() {
        let width = Mutex(80)
        let bar = ProgressBar(
            label: "decode", total: 320, start: .now, columns: { width.withLock { $0 } }, write: nil)
        #expect(bar.line(done: 80, elapsed: .seconds(1)).count == 77)
        width.withLock { $0 = 50 }
        #expect(bar.line(done: 80, elapsed: .seconds(1)).count < 50)
    }

    @Test("a line is never wider than the terminal", arguments: [1, 10, 20, 40, 60, 80, 200])
    func narrow(columns: Int) {
        let bar = ProgressBar(label: "prefill", total: 0, start: .now, columns: { columns }, write: nil)
        for done in [0, 5, 1_000_000_000] {
            #expect(bar.line(done: done, elapsed: .seconds(1)).count < max(columns, 2))
        }
    }

    @Test(
        "every error ends in the status that scripts expect",
        arguments: [
            (ServiceError.Code.invalidConfiguration, DCPConsole.ExitStatus.usage), (.invalidRequest, .badData),
            (.accessDenied, .accessDenied),
            (.invalidModel, .badData), (.modelMismatch, .badData), (.unknownModel, .badData),
            (.unknownSequence, .badData), (.positionMismatch, .badData), (.conflict, .badData),
            (.storeDamaged, .badData), (.unreachable, .unavailable), (.incompatible, .unavailable),
            (.protocolViolation, .unavailable), (.storeRefused, .unavailable), (.notReady, .retryLater),
            (.staleEpoch, .retryLater), (.overloaded, .retryLater), (.rankUnavailable, .retryLater),
            (.deadlineExceeded, .retryLater), (.storeFull, .retryLater), (.shuttingDown, .retryLater),
            (.stepAborted, .retryLater), (.internal, .bug), (.init(rawValue: 150), .retryLater),
            (.init(rawValue: 99), .badData), (.init(rawValue: 999), .bug),
        ])
    func exitStatus(code: ServiceError.Code, expected: DCPConsole.ExitStatus) {
        #expect(DCPConsole.ExitStatus(ServiceError(code, "")) == expected)
    }
}
