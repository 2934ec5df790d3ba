import ArgumentParser
import DCPCore
import DCPDaemon
import Foundation
import Testing

@Suite("Settings")
struct ConfigurationTests {
    private static let file = "rank:\n  threads: 2\n  durability: never\n  map-size: 7\n"

    private func rank(
        flags: [ConfigurationKey: String] = [:], environment: [String: String] = [:], file: String = file
    ) throws -> Configuration {
        try Configuration(
            keys: ConfigurationKey.ofRank, rank: RankIndex(5), flags: flags, environment: environment,
            file: try ConfigurationFile(file, path: "f.yaml"))
    }

    @Test("flags stand before environment, environment before file, file before what is built in")
    func precedence() throws {
        let configuration = try rank(
            flags: [.threads: "4"], environment: ["DCP_RANK_THREADS": "3", "DCP_RANK_DURABILITY": "always"])
        #expect(configuration[.threads] == .init(text: "4", origin: .flag("--threads")))
        #expect(configuration[.durability] == .init(text: "always", origin: .variable("DCP_RANK_DURABILITY")))
        #expect(configuration[.mapSize] == .init(text: "7", origin: .file("f.yaml", line: 4)))
        #expect(configuration[.uncommittedLimit] == .init(text: "1024", origin: .builtIn))
        #expect(configuration[.advertise] == nil)
        #expect(configuration[.store] == .init(text: "/var/lib/dcp/rank-5", origin: .builtIn))
    }

    @Test("a bad variable is refused by its name, and one that is no setting too")
    func variables() throws {
        for (name, value) in [("DCP_RANK_THREADS", "no"), ("DCP_RANK_THREDS", "2"), ("DCP_CLUSTER_SIZE", "2")] {
            let error = try #require(throws: ConfigurationError.self) { try rank(environment: [name: value]) }
            #expect(error.status == .configuration && error.message.contains(name), "\(error.message)")
        }
        // dcpctl's, and those of the other daemon.
        _ = try rank(environment: ["DCP_COORDINATOR": "unix:/x", "DCP_CLUSTER_RANKS": "2", "DCP_KERNELS": "scalar"])
    }

    @Test("a reading tells what has changed since the last")
    func changes() throws {
        let before = try rank()
        let after = try rank(file: "rank:\n  threads: 2\n  log-level: debug\n  map-size: 8\n")
        #expect(after.changes(since: before) == [.durability, .mapSize, .rankLogLevel])
    }

    @Test("a reload reads the file again, and keeps what it has when the file is refused")
    func source() throws {
        let path = FileManager.default.temporaryDirectory.appendingPathComponent("dcp-\(UUID().uuidString).yaml").path
        defer { try? FileManager.default.removeItem(atPath: path) }
        try Self.file.write(toFile: path, atomically: true, encoding: .utf8)
        let source = ConfigurationSource(
            keys: ConfigurationKey.ofRank, rank: RankIndex(0), flags: [:], filePath: path, environment: [:])
        #expect(try source.load()[.threads]?.text == "2")
        try "rank:\n  threads: 3\n".write(toFile: path, atomically: true, encoding: .utf8)
        #expect(try source.load()[.threads]?.text == "3")
        try "rank:\n  threads: x\n".write(toFile: path, atomically: true, encoding: .utf8)
        #expect(throws: ConfigurationError.self) { try source.load() }
    }

    @Test("names are distinct, defaults are good, and every key is in one table of its daemon")
    func table() {
        let keys = ConfigurationKey.all
        #expect(Set(keys.map(\.path)).count == keys.count)
        #expect(Set(keys.map(\.variable)).count == keys.count)
        for daemon in [ConfigurationKey.ofCoordinator, ConfigurationKey.ofRank] {
            #expect(Set(daemon.map(\.flag)).count == daemon.count)
        }
        for key in keys {
            if let text = key.defaultValue {
                #expect(key.kind.refusal(text.replacing("{rank}", with: "0")) == nil, "\(key.path)")
            }
        }
    }

    @Test("each key has its flag, and each flag that is no act is a key")
    func flags() throws {
        let acts: Set = [
            "--config", "--check-config", "--print-config", "--json", "--stop-on-stdin-eof", "--rank",
            "--adopt-ranks", "--adopt-without", "--version", "--help",
        ]
        let commands: [(any ParsableCommand.Type, [ConfigurationKey])] = [
            (RankCommand.self, ConfigurationKey.ofRank), (CoordinatorCommand.self, ConfigurationKey.ofCoordinator),
        ]
        for (command, keys) in commands {
            let help = command.helpMessage(columns: 200)
            let shown = help.split(separator: "\n").compactMap { line -> String? in
                guard let start = line.range(of: "  --") ?? line.range(of: ", --"), line.hasPrefix("  -") else {
                    return nil
                }
                let rest = line[line.index(start.lowerBound, offsetBy: 2)...]
                return String(rest.prefix { $0 != " " })
            }
            #expect(Set(shown).subtracting(acts) == Set(keys.map(\.flag)))
        }
    }
}
