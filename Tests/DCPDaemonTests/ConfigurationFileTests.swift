// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPDaemon
import Testing

@Suite("The configuration file")
struct ConfigurationFileTests {
    private struct BadFile: Sendable, CustomTestStringConvertible {
        let text: String
        /// What the message has to name, its place first.
        let names: [String]

        init(_ text: String, _ names: [String]) {
            self.text = text
            self.names = names
        }

        var testDescription: String { text }
    }

    private static let bad = [
        BadFile("cluster:\n  ranks: 4\nrank:\n  thread: 2\n", ["f.yaml:4:", "`thread`", "write `threads`"]),
        BadFile("clutser:\n  ranks: 4\n", ["f.yaml:1:", "`clutser`", "write `cluster`"]),
        BadFile("rank:\n  cache-everything-twice: 1\n", ["f.yaml:2:", "there are listen,"]),
        BadFile("# first\n\nrank:\n  threads: many\n", ["f.yaml:4:", "`many`", "1...1024"]),
        BadFile("rank:\n  threads: 0\n", ["f.yaml:2:", "0 threads", "1...1024"]),
        BadFile("rank:\n  threads: [1, 2]\n", ["f.yaml:2:", "takes one value"]),
        BadFile("rank:\n  threads:\n", ["f.yaml:2:", "has no value"]),
        BadFile("rank:\n  threads: ~\n", ["f.yaml:2:", "has no value"]),
        BadFile("rank:\n  store: \"\"\n", ["f.yaml:2:", "not a path"]),
        BadFile("rank:\n  durability: sometimes\n", ["f.yaml:2:", "`sometimes`", "always, everysec or never"]),
        BadFile("rank:\n  insecure-loopback-only: yes\n", ["f.yaml:2:", "`yes`", "true nor false"]),
        BadFile("rank:\n  listen: /run/x.sock\n", ["f.yaml:2:", "unix:PATH or tcp:HOST:PORT"]),
        BadFile("coordinator:\n  lease: .inf\n", ["f.yaml:2:", "`.inf`", "0.1...3600"]),
        BadFile("rank:\n  threads: 1\n  threads: 2\n", ["f.yaml:", "duplicate key `threads`"]),
        BadFile("rank: {threads: 1\n", ["f.yaml:", "not YAML"]),
        BadFile("rank:\n\tthreads: 1\n", ["f.yaml:2:", "not YAML"]),
        BadFile("- rank\n", ["f.yaml:1:", "`key: value`"]),
        BadFile("rank: 3\n", ["f.yaml:1:", "`rank`", "`key: value`"]),
        BadFile("ranks:\n  one:\n    threads: 1\n", ["f.yaml:2:", "`one`", "not a rank's number"]),
        BadFile("ranks:\n  65536:\n    threads: 1\n", ["f.yaml:2:", "`65536`"]),
        BadFile("ranks:\n  1:\n    ranks: 1\n", ["f.yaml:3:", "`ranks` is not a key of `rank`"]),
        BadFile("cluster:\n  ranks: 2\nranks:\n  2:\n    threads: 1\n", ["f.yaml:5:", "rank 2", "0..<2"]),
        BadFile("a: 1\n---\nb: 2\n", ["f.yaml:", "not YAML"]),
    ]

    @Test("nonsense is refused with file, line and remedy", arguments: bad)
    private func refuses(file: BadFile) throws {
        let error = try #require(throws: ConfigurationError.self) { try ConfigurationFile(file.text, path: "f.yaml") }
        #expect(error.status == .configuration)
        for name in file.names { #expect(error.message.contains(name), "\(error.message)") }
    }

    @Test(
        "empty files and sections are accepted",
        arguments: ["", "\n", "# nothing\n", "rank:\n", "rank:\n  # threads: 2\n", "ranks:\n  0:\n", "{}"])
    func empty(text: String) throws {
        let file = try ConfigurationFile(text, path: "f.yaml")
        #expect(file.values.isEmpty)
    }

    @Test("a file that cannot be read is named")
    func unreadable() throws {
        let error = try #require(throws: ConfigurationError.self) {
            try ConfigurationFile(reading: "/nonexistent/dcp.yaml")
        }
        #expect(error.message.contains("/nonexistent/dcp.yaml") && error.message.contains("--config"))
    }

    @Test("a rank's own lines stand before those of all ranks, with their lines")
    func perRank() throws {
        let file = try ConfigurationFile("rank:\n  threads: 2\nranks:\n  3:\n    threads: 7\n", path: "f.yaml")
        for (rank, expected) in [(RankIndex(0), ("2", 2)), (RankIndex(3), ("7", 5))] {
            let configuration = try Configuration(
                settings: Setting.ofRank, rank: rank, flags: [:], environment: [:], file: file)
            let value = try #require(configuration.statement(of: RankKeys.table.threads.setting))
            #expect(value.text == expected.0 && value.origin == .file("f.yaml", line: expected.1))
        }
    }
}
