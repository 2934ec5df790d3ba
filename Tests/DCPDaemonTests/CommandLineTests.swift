// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPDaemon
import Testing

/// What the command prints for a command line it refuses; nil when it takes it.
private func refusal<Command: ParsableCommand>(
    _ command: Command.Type, _ arguments: [String], check: (Command) throws -> Void
) -> String? {
    do {
        // Without the configuration of the machine that the tests run on.
        try check(Command.parse(arguments + ["--config", "/dev/null"]))
        return nil
    } catch let error as ConfigurationError {
        #expect(error.status == .commandLine)
        return error.message
    } catch {
        #expect(Command.exitCode(for: error).rawValue == 64)
        return Command.message(for: error)
    }
}

/// A command line that is refused, and what the message has to name: the value, and what to do.
private struct BadLine: Sendable, CustomTestStringConvertible {
    let arguments: [String]
    let names: [String]

    init(_ arguments: [String], _ names: [String]) {
        self.arguments = arguments
        self.names = names
    }

    var testDescription: String { arguments.joined(separator: " ") }
}

@Suite("dcp-rank: its command line")
struct RankCommandTests {
    private static let good = [
        "--rank", "0", "--store", "/var/lib/dcp/rank-0", "--listen", "unix:/run/dcp/rank-0.sock", "--coordinator",
        "unix:/run/dcp/coordinator.sock",
    ]

    @Test(
        "good lines are taken",
        arguments: [
            [], ["--threads", "1024"], ["--durability", "always"], ["--durability", "never"], ["--map-size", "65536"],
            ["--uncommitted-limit", "1"], ["--disk-limit", "200GB"], ["--disk-limit", "4MiB", "--map-size", "1"],
            ["--disk-limit", "1.5TiB", "--high-watermark", "100", "--low-watermark", "99"], ["--log-level", "trace"],
            ["--advertise", "tcp:10.0.0.1:7400"],
            ["--stop-on-stdin-eof"], ["--listen", "tcp:127.0.0.1:0", "--insecure-loopback-only"],
            ["--listen", "tcp:[::1]:7400", "--insecure-loopback-only"], ["--coordinator", "tcp:127.0.0.1:7300"],
            ["--allowed-uids", "1000, 1001", "--allowed-gids", "50"], ["--allowed-uids", ""],
            ["--handshake-timeout", "0.5", "--handshake-limit", "8KiB", "--connections-per-peer", "1024"],
            ["--frame-timeout", "0.1", "--unfinished-frames-limit", "512MiB"],
        ])
    func accepts(more: [String]) { #expect(refusal(RankCommand.self, Self.good + more) { try $0.check() } == nil) }

    private static let bad = [
        BadLine(["--threads", "0"], ["0 threads", "1...1024", "--threads"]),
        BadLine(["--threads", "1025"], ["1025 threads", "--threads"]),
        BadLine(["--threads", "many"], ["many", "--threads"]),
        BadLine(["--durability", "sometimes"], ["`sometimes`", "always, everysec or never"]),
        BadLine(["--map-size", "0"], ["0 GiB", "1...65536", "--map-size"]),
        BadLine(["--map-size", "65537"], ["65537 GiB", "--map-size"]),
        BadLine(["--uncommitted-limit", "0"], ["0 MiB", "--uncommitted-limit"]),
        BadLine(["--uncommitted-limit", "1048577"], ["1048577 MiB", "--uncommitted-limit"]),
        BadLine(["--disk-limit", "4095KiB"], ["4193280 bytes", "4194304", "--disk-limit"]),
        BadLine(["--disk-limit", "5parsecs"], ["5parsecs", "--disk-limit"]),
        BadLine(["--disk-limit", "-1GB"], ["--disk-limit"]),
        BadLine(["--high-watermark", "90"], ["90 % and 90 %", "low < high", "--high-watermark"]),
        BadLine(["--high-watermark", "101"], ["101 %", "1...100", "--high-watermark"]),
        BadLine(["--low-watermark", "0"], ["0 %", "--low-watermark"]),
        BadLine(["--log-level", "loud"], ["`loud`", "trace, debug, info"]),
        BadLine(["--listen", "/run/dcp.sock"], ["`/run/dcp.sock`", "unix:PATH or tcp:HOST:PORT"]),
        BadLine(["--listen", "unix:"], ["0 bytes", "1...107"]),
        BadLine(
            ["--listen", "unix:/" + String(repeating: "a", count: 107)], ["108 bytes", "1...107", "shorter path"]),
        BadLine(["--listen", "tcp:127.0.0.1:70000"], ["tcp:127.0.0.1:70000", "tcp:HOST:PORT"]),
        BadLine(
            ["--listen", "tcp:127.0.0.1:7400"], ["tcp:127.0.0.1:7400", "--insecure-loopback-only", "tls-certificate"]),
        BadLine(["--coordinator", "tcp:10.0.0.1:7300"], ["tcp:10.0.0.1:7300", "loopback", "tls-ca", "dcpctl certs"]),
        BadLine(["--tls-ca", "/ca.pem"], ["/ca.pem", "rank.tls-certificate and rank.tls-key", "credentials"]),
        BadLine(
            ["--tls-ca", "/nowhere/ca.pem", "--tls-certificate", "/c", "--tls-key", "/k"],
            ["/nowhere/ca.pem cannot be read", "--tls-ca"]),
        BadLine(["--allowed-uids", "alice"], ["`alice`", "id -u", "--allowed-uids"]),
        BadLine(["--allowed-gids", "1,,2"], ["``", "--allowed-gids"]),
        BadLine(["--allowed-uids", "-1"], ["--allowed-uids"]),
        BadLine(["--handshake-timeout", "0"], ["`0`", "0.1...600", "--handshake-timeout"]),
        BadLine(["--handshake-limit", "1KiB"], ["1024 bytes", "8192", "--handshake-limit"]),
        BadLine(["--frame-timeout", "0"], ["`0`", "0.1...3600", "--frame-timeout"]),
        BadLine(["--unfinished-frames-limit", "1MiB"], ["1048576 bytes", "536870912"]),
        BadLine(["--connections-per-peer", "0"], ["0 connections", "1...1024"]),
        BadLine(["--unauthenticated-connections", "1025"], ["1025 connections", "1...1024"]),
        BadLine(
            ["--listen", "tcp:0.0.0.0:7400", "--insecure-loopback-only"],
            ["tcp:0.0.0.0:7400", "loopback", "tcp:127.0.0.1"]
        ),
        BadLine(["--listen", "tcp:10.0.0.1:7400", "--insecure-loopback-only"], ["tcp:10.0.0.1:7400", "loopback"]),
        BadLine(["--listen", "tcp:localhost:7400", "--insecure-loopback-only"], ["tcp:localhost:7400", "loopback"]),
        BadLine(["--listen", "tcp:[::]:7400", "--insecure-loopback-only"], ["tcp:[::]:7400", "loopback"]),
        BadLine(["--coordinator", "nowhere"], ["`nowhere`", "unix:PATH"]),
        BadLine(["--advertise", "http://x"], ["`http://x`", "unix:PATH"]),
        BadLine(["--rank", "70000"], ["70000", "--rank"]),
        BadLine(["--rank", "-1"], ["--rank"]),
    ]

    @Test("bad values are refused with the value and the remedy", arguments: bad)
    private func refuses(line: BadLine) throws {
        let message = try #require(refusal(RankCommand.self, Self.good + line.arguments) { try $0.check() })
        for name in line.names { #expect(message.contains(name), "\(message)") }
    }

    @Test("which rank it is has to be said, unless it only looks at its configuration")
    func required() throws {
        let message = try #require(refusal(RankCommand.self, []) { try $0.check() })
        #expect(message.contains("--rank 0"))
        #expect(refusal(RankCommand.self, ["--check-config"]) { try $0.check() } == nil)
        #expect(refusal(RankCommand.self, ["--print-config", "--json"]) { try $0.check() } == nil)
    }

    @Test("--json requires --print-config")
    func json() throws {
        let message = try #require(refusal(RankCommand.self, ["--rank", "0", "--json"]) { try $0.check() })
        #expect(message.contains("--print-config"))
    }

    @Test("--help has an example that parses")
    func example() throws {
        let help = RankCommand.helpMessage()
        #expect(help.contains("EXAMPLE") && help.contains("dcp-rank --rank 0"))
    }
}

@Suite("dcp-coordinator: its command line")
struct CoordinatorCommandTests {
    private static let good = ["--state", "/var/lib/dcp/coordinator", "--listen", "unix:/run/dcp/coordinator.sock"]

    @Test(
        "good lines are taken",
        arguments: [
            [], ["--ranks", "4", "--head-groups", "2"], ["--interleave", "64"], ["--block-tokens", "16"],
            ["--exchange", "ag-rs"], ["--lease", "0.1"], ["--lease", "3600"],
            ["--replace-store", "1:00112233445566778899aabbccddeeff,2:ffeeddccbbaa99887766554433221100"],
            ["--accept-older-store", "0:18446744073709551615"], ["--rights", "1000=use, *=read"],
            ["--evict", "off"], ["--evict", "lru", "--lease", "1", "--evict-idle", "1"],
        ])
    func accepts(more: [String]) {
        #expect(refusal(CoordinatorCommand.self, Self.good + more) { try $0.check() } == nil)
    }

    private static let bad = [
        BadLine(["--ranks", "0"], ["0 ranks", "1...1024", "--ranks"]),
        BadLine(["--ranks", "1025"], ["1025 ranks", "--ranks"]),
        BadLine(["--ranks", "4", "--head-groups", "3"], ["4 ranks", "3 head groups", "--head-groups"]),
        BadLine(["--head-groups", "0"], ["0 head groups", "--head-groups"]),
        BadLine(["--interleave", "0"], ["0 tokens", "--interleave"]),
        BadLine(["--interleave", "48"], ["64 tokens", "interleave 48", "--interleave"]),
        BadLine(["--interleave", "128"], ["interleave 128", "--block-tokens"]),
        BadLine(["--block-tokens", "0"], ["0 tokens", "--block-tokens"]),
        BadLine(["--block-tokens", "40"], ["40 tokens", "multiple of 16", "--block-tokens"]),
        BadLine(["--block-tokens", "8192"], ["8192 tokens", "4096"]),
        BadLine(["--exchange", "ring"], ["`ring`", "a2a or ag-rs"]),
        BadLine(["--lease", "0"], ["`0`", "0.1...3600", "--lease"]),
        BadLine(["--lease", "nan"], ["`nan`", "--lease"]),
        BadLine(["--lease", "3601"], ["`3601`", "--lease"]),
        BadLine(["--evict", "fifo"], ["`fifo`", "off or lru"]),
        BadLine(["--evict", "lru", "--evict-idle", "1"], ["1.0 s", "5.0...86400", "--evict-idle"]),
        BadLine(["--listen", "tcp:0.0.0.0:1", "--insecure-loopback-only"], ["tcp:0.0.0.0:1", "loopback"]),
        BadLine(["--listen", "tcp:127.0.0.1:1"], ["--insecure-loopback-only"]),
        BadLine(["--log-level", ""], ["``", "info", "--log-level"]),
        BadLine(["--replace-store", "70000"], ["70000", "RANK:STORE", "--replace-store"]),
        BadLine(["--replace-store", "1:0011"], ["1:0011", "dcpctl store list", "--replace-store"]),
        BadLine(["--replace-store", "1:+0112233445566778899aabbccddeeff"], ["--replace-store"]),
        BadLine(["--accept-older-store", "1"], ["`1`", "RANK:CHANGE", "--accept-older-store"]),
        BadLine(["--rights", "1000=write"], ["1000=write", "UID=RIGHT", "--rights"]),
        BadLine(["--rights", "1000=use,1000=read"], ["1000=read", "once", "--rights"]),
    ]

    @Test("bad values are refused with the value and the remedy", arguments: bad)
    private func refuses(line: BadLine) throws {
        let arguments = Self.good + line.arguments
        let message = try #require(refusal(CoordinatorCommand.self, arguments) { try $0.check() })
        for name in line.names { #expect(message.contains(name), "\(message)") }
    }
}
