// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DCPCore
import DCPDaemon
import Foundation
import Logging
import Testing

@Suite("Settings")
struct ConfigurationTests {
    private static let keys = RankKeys.table
    private static let file = "rank:\n  threads: 2\n  durability: never\n  map-size: 7\n"

    private func rank(
        flags: [Setting: String] = [:], environment: [String: String] = [:], file: String = file
    ) throws -> Configuration {
        try Configuration(
            settings: Setting.ofRank, rank: RankIndex(5), flags: flags, environment: environment,
            file: try ConfigurationFile(file, path: "f.yaml"))
    }

    @Test("flags stand before environment, environment before file, file before what is built in")
    func precedence() throws {
        let configuration = try rank(
            flags: [Self.keys.threads.setting: "4"],
            environment: ["DCP_RANK_THREADS": "3", "DCP_RANK_DURABILITY": "always"])
        #expect(configuration.statement(of: Self.keys.threads.setting) == .init(text: "4", origin: .flag("--threads")))
        #expect(
            configuration.statement(of: Self.keys.durability.setting)
                == .init(text: "always", origin: .variable("DCP_RANK_DURABILITY")))
        #expect(
            configuration.statement(of: Self.keys.mapSize.setting) == .init(text: "7", origin: .file("f.yaml", line: 4))
        )
        #expect(
            configuration.statement(of: Self.keys.uncommittedLimit.setting) == .init(text: "1024", origin: .builtIn))
        #expect(configuration.statement(of: Self.keys.advertise.setting) == nil)
        #expect(
            configuration.statement(of: Self.keys.store.setting) == .init(text: "/var/lib/dcp/rank-5", origin: .builtIn)
        )
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
        #expect(
            after.changes(since: before)
                == [Self.keys.durability.setting, Self.keys.mapSize.setting, Self.keys.logLevel.setting])
    }

    @Test("a reload reads the file again, and keeps what it has when the file is refused")
    func source() throws {
        let path = FileManager.default.temporaryDirectory.appendingPathComponent("dcp-\(UUID().uuidString).yaml").path
        defer { try? FileManager.default.removeItem(atPath: path) }
        try Self.file.write(toFile: path, atomically: true, encoding: .utf8)
        let source = ConfigurationSource(
            settings: Setting.ofRank, rank: RankIndex(0), flags: [:], filePath: path, environment: [:])
        #expect(try source.load()[Self.keys.threads] == 2)
        try "rank:\n  threads: 3\n".write(toFile: path, atomically: true, encoding: .utf8)
        #expect(try source.load()[Self.keys.threads] == 3)
        try "rank:\n  threads: x\n".write(toFile: path, atomically: true, encoding: .utf8)
        #expect(throws: ConfigurationError.self) { try source.load() }
    }

    @Test("names are distinct, defaults are good, and every key is in one table of its daemon")
    func table() {
        let keys = Setting.all
        #expect(Set(keys.map(\.path)).count == keys.count)
        #expect(Set(keys.map(\.variable)).count == keys.count)
        for daemon in [Setting.ofCoordinator, Setting.ofRank] {
            #expect(Set(daemon.map(\.flag)).count == daemon.count)
        }
        for key in keys {
            if let text = key.defaultValue {
                #expect(key.refusal(text.replacing("{rank}", with: "0")) == nil, "\(key.path)")
            }
        }
    }

    @Test("each key has its flag, and each flag that is no act is a key")
    func flags() throws {
        let acts: Set = [
            "--config", "--check-config", "--print-config", "--json", "--stop-on-stdin-eof", "--rank",
            "--adopt-ranks", "--adopt-without", "--version", "--help",
        ]
        let commands: [(any ParsableCommand.Type, [Setting])] = [
            (RankCommand.self, Setting.ofRank), (CoordinatorCommand.self, Setting.ofCoordinator),
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

    @Test("each flag reaches its setting, and no other", arguments: Setting.all)
    func flag(setting: Setting) throws {
        let line = setting.isSwitch ? [setting.flag] : [setting.flag, setting.example]
        let given =
            setting.section == .rank
            ? try RankCommand.parse(["--rank", "0"] + line).settings.given
            : try CoordinatorCommand.parse(line).settings.given
        #expect(given == [setting: setting.isSwitch ? "true" : setting.example])
    }

    @Test("values have the types of their keys, set, as built in and not set")
    func types() throws {
        let keys = Self.keys
        let built = try rank()
        #expect(built[keys.drainTimeout] == .seconds(20) && built[keys.memoryIdle] == .seconds(60))
        #expect(built[keys.sharedMemory] && built[keys.access.users].isEmpty && built[keys.diskLimit] == nil)
        let file = """
            rank:
              memory-idle: off
              drain-timeout: 0.3
              shared-memory: "off"
              allowed-uids: 7, 8
              log-level: error
              disk-limit: 8MiB

            """
        let set = try rank(file: file)
        #expect(set[keys.drainTimeout] == .milliseconds(300) && set[keys.memoryIdle] == nil)
        #expect(!set[keys.sharedMemory] && set[keys.access.users] == [7, 8] && set[keys.diskLimit] == 8 << 20)
        #expect(set[keys.logLevel] == .error)
    }
}
