// SPDX-License-Identifier: Apache-2.0

import DCPConsole
import DCPCore
import Testing

@Suite("Durations and byte counts")
struct FormatTests {
    @Test(
        "a duration with its unit is parsed",
        arguments: [
            ("500ms", Duration.milliseconds(500)), ("30s", .seconds(30)), ("5m", .seconds(300)), ("1.5m", .seconds(90)),
            ("2h", .seconds(7200)), ("250us", .microseconds(250)), ("0s", .zero),
        ])
    func parses(text: String, expected: Duration) throws {
        #expect(try DurationFormat.parse(text) == expected)
    }

    @Test(
        "a text that is not a duration is refused with the text",
        arguments: ["", "30", "s", "-1s", "1..5s", "1d", "3 s", "1e5s", "99999999999h", "infs", "\u{0}s"])
    func refuses(text: String) {
        let error = #expect(throws: ServiceError.self) { try DurationFormat.parse(text) }
        #expect(error?.code == .invalidConfiguration)
        #expect(error?.message.contains(text.isEmpty ? "\"\"" : text == "\u{0}s" ? "\\0s" : text) == true)
    }

    @Test(
        "latencies have three digits",
        arguments: [
            (Duration.microseconds(850), "850 us"), (.microseconds(1240), "1.24 ms"),
            (.microseconds(12_400), "12.4 ms"),
            (.milliseconds(124), "124 ms"), (.milliseconds(2310), "2.31 s"), (.microseconds(999_900), "1.00 s"),
            (.seconds(185), "3m 05s"), (.seconds(7620), "2h 07m"), (.zero, "0 us"),
        ])
    func latencies(duration: Duration, expected: String) {
        #expect(DurationFormat.latency(duration) == expected)
    }

    @Test(
        "byte counts are in powers of 1024",
        arguments: [
            (0, "0 B"), (1023, "1023 B"), (1536, "1.50 KiB"), (64 << 20, "64.0 MiB"), ((1 << 20) - 1, "1.00 MiB"),
            (5 << 30, "5.00 GiB"), (Int.max, "8192 PiB"), (-2048, "-2.00 KiB"),
        ])
    func bytes(count: Int, expected: String) {
        #expect(ByteFormat.format(count) == expected)
    }
}
