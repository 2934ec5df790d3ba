// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import Foundation
import Testing

extension Integration {
    /// Backups that go through pipes: `dcpctl backup -` and `dcpctl restore -`.
    @Suite("backup and restore through a pipe", .timeLimit(.minutes(5)))
    struct BackupStreamTests {
        private static let dcpctl = Binaries.directory + "/dcpctl"

        private static func trace() throws -> Trace {
            Trace(try shape(4, 2, 16, 16, .float32), tokens: 300, salt: 981)
        }

        /// Runs a line of shell; `$dcpctl` is ours.
        @discardableResult
        private static func shell(_ line: String, coordinator: String? = nil) async throws -> CommandLineTool.Outcome {
            var tool = CommandLineTool(coordinator: coordinator, executable: "/bin/bash")
            tool.environment["dcpctl"] = dcpctl
            return try await tool.run("-c", "set -o pipefail; \(line)")
        }

        private static func directory(_ path: String) throws -> String {
            try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
            return path
        }

        private static func isEmpty(_ path: String) throws -> Bool {
            try FileManager.default.contentsOfDirectory(atPath: path).isEmpty
        }

        /// A cluster's backup as one file, of a sequence of 200 committed tokens, and the answers to the tokens behind them.
        private static func streamed(
            to path: String, _ setup: ClusterSetup, _ more: (TestCluster) async throws -> Void = { _ in }
        ) async throws -> [Answer] {
            try await setup.run { cluster in
                try await cluster.withClient { client in
                    let trace = try trace()
                    _ = try await client.play(trace, Cuts([0, 150, 151, 200]), on: client.open(trace, "s", model: "m"))
                }
                // Its canary is nobody's.
                try await cluster.tool.run("health")
                let made = try await shell(
                    "$dcpctl backup - --json > \(path)", coordinator: cluster.local.coordinatorEndpoint)
                #expect(made.status == 0 && made.data.isEmpty, "\(made.messages)")
                let manifest = try JSONSerialization.jsonObject(with: Data(made.messages.utf8)) as? [String: Any]
                #expect(manifest?["sequences"] as? [String] == ["s"] && manifest?["models"] as? [String] == ["m"])
                try await more(cluster)
                return try await cluster.withClient { client in
                    let sequence = try await client.openSequence("s", model: nil)
                    _ = try await client.resume(sequence)
                    return try await client.play(trace(), Cuts([200, 300]), on: sequence)
                }
            }
        }

        @Test("a stream is the tar archive of the directory, and a cluster restored from it answers with the same bits")
        func whole() async throws {
            let setup = ClusterSetup(ranks: 2)
            let place = TemporaryDirectory()
            let path = place.path("backup.tar")
            let answers = try await Self.streamed(to: path, setup) { cluster in
                let only = try await Self.shell(
                    "$dcpctl backup - --only rank-1 | tar -t", coordinator: cluster.local.coordinatorEndpoint)
                #expect(only.data == "rank-1.mdb\nbackup.json\n", "\(only.messages)")
            }
            let unpacked = try Self.directory(place.path("unpacked"))
            let home = try Self.directory(place.path("home")), other = try Self.directory(place.path("other"))
            let untar = try await Self.shell("tar -xC \(unpacked) < \(path)")
            #expect(untar.status == 0, "\(untar.messages)")
            #expect(
                Set(try FileManager.default.contentsOfDirectory(atPath: unpacked))
                    == ["backup.json", "coordinator.mdb", "rank-0.mdb", "rank-1.mdb"])
            let restored = try await Self.shell("cat \(path) | $dcpctl restore - --to \(home) --json")
            #expect(try restored.list().compactMap { $0["store"] as? String } == ["coordinator", "rank-0", "rank-1"])
            try await CommandLineTool(coordinator: nil).run("restore", unpacked, "--to", other)
            for store in ["coordinator", "rank-0", "rank-1"] {
                let file = try Data(contentsOf: URL(filePath: "\(unpacked)/\(store).mdb"))
                for place in [home, other] {
                    #expect(try Data(contentsOf: URL(filePath: "\(place)/\(store)/data.mdb")) == file)
                }
            }
            let local = try LocalCluster.start(in: LocalClusterDirectory(path: home), options: setup.options)
            let cluster = TestCluster(directory: place, local: local)
            do {
                try await cluster.waitUntilReady()
                try await cluster.withClient { client in
                    let sequence = try await client.openSequence("s", model: nil)
                    #expect(try await client.resume(sequence).committedLength == 200)
                    #expect(try await client.play(Self.trace(), Cuts([200, 300]), on: sequence) == answers)
                }
                await local.stop(deadline: .seconds(30))
            } catch {
                await local.stop(deadline: .seconds(30))
                throw error
            }
        }

        @Test("a stream that ends early, is damaged or is not a backup restores nothing, and the error says why")
        func refused() async throws {
            let place = TemporaryDirectory()
            let path = place.path("backup.tar"), changed = place.path("changed.tar")
            _ = try await Self.streamed(to: path, ClusterSetup(ranks: 1)) { cluster in
                // The reader is gone before anything is written.
                let ended = try await Self.shell(
                    """
                    mkfifo \(place.path("pipe")); (: < \(place.path("pipe"))) & exec 3> \(place.path("pipe")); wait $!
                    $dcpctl backup - >&3
                    """, coordinator: cluster.local.coordinatorEndpoint)
                #expect(ended.status == 65 && ended.messages.contains("Broken pipe"), "\(ended.messages)")
                let full = try await Self.shell(
                    "$dcpctl backup - > /dev/full", coordinator: cluster.local.coordinatorEndpoint)
                #expect(full.status == 65 && full.messages.contains("No space left on device"), "\(full.messages)")
            }
            let archive = try Data(contentsOf: URL(filePath: path))
            let to = try Self.directory(place.path("to"))
            func restore(_ data: Data, saying word: String) async throws {
                try data.write(to: URL(filePath: changed))
                let outcome = try await Self.shell("cat \(changed) | $dcpctl restore - --to \(to)")
                #expect(outcome.status == 65 && outcome.messages.contains(word), "\(outcome.messages)")
                #expect(try Self.isEmpty(to), "\(data.count) bytes, \(word), DCP_SEED=\(SeededGenerator.seed)")
            }
            var random = SeededGenerator(seed: SeededGenerator.seed)
            // In a header, in a file, between two files, in the manifest, and of the end all but the last byte.
            let ends = [0, 100, 512, 40_000, archive.count - 2000, archive.count - 1024, archive.count - 1]
            for end in ends + (0..<4).map({ _ in Int.random(in: 0..<archive.count, using: &random) }) {
                try await restore(archive[..<end], saying: "before its end")
            }
            // Of the first store's pages; what pads a file is nobody's.
            let page = 512 + Int.random(in: 0..<8192, using: &random)
            for place in [7, 124, page, archive.count - 1024 - 512 - 1024] {
                var damaged = archive
                damaged[place] ^= 4
                try await restore(damaged, saying: place == page ? "is damaged" : "fails its checksum")
            }
            try await restore(Data("no archive".utf8) + Data(count: 1000), saying: "Decompress it first")
            _ = try await Self.shell("cd \(to)/.. && mkdir -p x && tar -xC x < \(path) && tar -cf own.tar -C x .")
            try await restore(
                try Data(contentsOf: URL(filePath: place.path("own.tar"))), saying: "restore its directory")
            try await CommandLineTool(coordinator: nil).fails(
                65, saying: ["before its end"], ["restore", "-", "--to", to])
        }
    }
}
