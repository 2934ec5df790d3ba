// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPWire
import Foundation
import Synchronization
import Testing

extension Integration {
    /// Copies of a cluster that serves, put in place of it.
    @Suite("backup and restore", .timeLimit(.minutes(5)))
    struct BackupTests {
        private static let tokens = 400

        private static func trace(_ salt: UInt64) throws -> Trace {
            Trace(try shape(4, 2, 16, 16, .float32), tokens: tokens, salt: salt)
        }

        /// What the load tells, in turns: at one position they have other tokens.
        private static func stories() throws -> [Trace] { [try trace(970), try trace(971)] }

        /// Commits step by step, cuts all away and begins with the other story, until it is told to stop.
        private static func load(
            _ cluster: TestCluster, until stop: @escaping @Sendable () -> Bool
        ) async throws -> Int {
            try await cluster.withClient { client in
                let stories = try stories()
                let sequence = try await client.open(stories[0], "busy", model: "m")
                var (length, rounds) = (0, 0)
                while !stop(), !Task.isCancelled {
                    if length >= 24 {
                        length = 0
                        rounds += 1
                        try await client.cut("busy", to: 0)
                    }
                    let story = stories[rounds % 2]
                    _ = try await client.play(story, Cuts([length, length + 1, length + 4]), on: sequence)
                    length += 4
                }
                return rounds
            }
        }

        @Test(
            "a backup under load, restored into another directory, gives every sequence with the bits of the original; nothing is cut between two states"
        )
        func whole() async throws {
            let traces = ["chat-1": try Self.trace(961), "chat-2": try Self.trace(962), "chat-3": try Self.trace(963)]
            let setup = ClusterSetup(ranks: 2)
            let place = TemporaryDirectory()
            let backup = place.path("backup")
            let answers = try await setup.run { cluster -> [String: [Answer]] in
                try await cluster.withClient { client in
                    for (name, trace) in traces {
                        let sequence = try await client.open(trace, name, model: "m")
                        _ = try await client.play(trace, Cuts([0, 200, 201, 230]), on: sequence)
                    }
                    _ = try await client.open(Self.trace(964), "closed", model: "m")
                    try await client.closeSequence("closed")
                }
                try await cluster.tool.run("sequence", "pin", "chat-2")
                let finished = Flag()
                async let rounds = Self.load(cluster) { finished.isSet }
                for number in 0..<5 {
                    let path = number == 4 ? backup : place.path("earlier-\(number)")
                    let made = try await cluster.tool.run("backup", path, "--json").object()
                    #expect((made["sequences"] as? [String]).map { Set(traces.keys).isSubset(of: $0) } == true)
                }
                finished.set()
                #expect(try await rounds > 0)
                try await cluster.tool.fails(65, saying: ["does not overwrite it"], ["backup", backup])
                // What the original answers from there on.
                return try await cluster.withClient { client in
                    var answers: [String: [Answer]] = [:]
                    for (name, trace) in traces {
                        let sequence = try await client.openSequence(name, model: nil)
                        _ = try await client.resume(sequence)
                        answers[name] = try await client.play(trace, Cuts([230, 260, 261, 400]), on: sequence)
                    }
                    return answers
                }
            }
            let tool = CommandLineTool(coordinator: "unix:/nowhere")
            for round in 0..<2 {
                let home = place.path("c\(round)")
                try FileManager.default.createDirectory(atPath: home, withIntermediateDirectories: true)
                let source = round == 0 ? backup : place.path("earlier-1")
                try await tool.run("restore", source, "--to", home)
                try await tool.fails(65, saying: ["does not overwrite them"], ["restore", source, "--to", home])
                let verified = try await tool.run("verify", "--store", home + "/rank-1", "--json").object()
                #expect(verified["damaged"] as? Int == 0)
                let local = try LocalCluster.start(in: LocalClusterDirectory(path: home), options: setup.options)
                let cluster = TestCluster(directory: place, local: local)
                do {
                    try await cluster.waitUntilReady()
                    let list = try await cluster.tool.run("sequence", "list", "--json").list()
                    let names = Set(list.compactMap { $0["name"] as? String })
                    #expect(names.isSuperset(of: traces.keys) && !names.contains("closed"))
                    #expect(list.first { $0["name"] as? String == "chat-2" }?["pinned"] as? Bool == true)
                    try await cluster.withClient { client in
                        for (name, trace) in traces {
                            let sequence = try await client.openSequence(name, model: nil)
                            #expect(try await client.resume(sequence).committedLength == 230)
                            let again = try await client.play(trace, Cuts([230, 260, 261, 400]), on: sequence)
                            #expect(again == answers[name], "\(name), round \(round)")
                        }
                        // Wherever the load was: the tokens are all of one story.
                        let busy = try await client.openSequence("busy", model: nil)
                        let length = try await client.resume(busy).committedLength
                        var matches = 0
                        for (number, story) in try Self.stories().enumerated() {
                            _ = try await client.fork("busy", as: "busy-\(number)", length: length)
                            let twig = try await client.openSequence("busy-\(number)", model: nil)
                            let rest = try await client.play(story, Cuts([length, length + 20]), on: twig)
                            let errors = rest[0].errors(story.reference(0, length..<length + 20))
                            if max(errors.output, errors.lse) < Answer.outputErrorMax { matches += 1 }
                        }
                        #expect(matches == (length == 0 ? 2 : 1), "at \(length), round \(round)")
                    }
                    #expect(!(try cluster.log(of: .coordinator).contains("not in the directory")))
                    await local.stop(deadline: .seconds(30))
                } catch {
                    await local.stop(deadline: .seconds(30))
                    throw error
                }
            }
        }

        @Test(
            "a backup that is interrupted leaves nothing, one that is damaged is not restored, and a rank's death ends it"
        )
        func failures() async throws {
            let place = TemporaryDirectory()
            let backup = place.path("backup")
            try await ClusterSetup(ranks: 2).run { cluster in
                try await cluster.withClient { client in
                    let trace = try Self.trace(971)
                    _ = try await client.play(trace, Cuts([0, 300]), on: client.open(trace, "s", model: "m"))
                }
                try await cluster.local.killRank(1)
                let failed = try await cluster.tool.run("backup", backup)
                #expect(failed.status == 75 && failed.messages.contains("rank 1"))
                #expect(try FileManager.default.contentsOfDirectory(atPath: place.path("")).isEmpty)
                try cluster.local.startRank(1)
                try await cluster.waitUntilReady()
                try await cluster.tool.run(
                    "backup", backup, "--only", "rank-1", "--only", "coordinator", "--only", "rank-1")
                try await cluster.tool.fails(
                    65, saying: ["no store `rank-7`"], ["backup", place.path("x"), "--only", "rank-7"])
            }
            let files = try FileManager.default.contentsOfDirectory(atPath: backup)
            #expect(Set(files) == ["backup.json", "coordinator.mdb", "rank-1.mdb"])
            let tool = CommandLineTool(coordinator: "unix:/nowhere")
            let to = place.path("to")
            try FileManager.default.createDirectory(atPath: to, withIntermediateDirectories: true)
            try await tool.fails(
                65, saying: ["no store `rank-0`"], ["restore", backup, "--to", to, "--only", "rank-0"])
            let path = backup + "/rank-1.mdb"
            var data = try Data(contentsOf: URL(filePath: path))
            data[data.count / 2] ^= 4
            try data.write(to: URL(filePath: path))
            try await tool.fails(65, saying: ["is damaged", "checksum"], ["restore", backup, "--to", to])
            #expect(try FileManager.default.contentsOfDirectory(atPath: to).isEmpty)
            try FileManager.default.removeItem(atPath: backup + "/backup.json")
            try await tool.fails(65, saying: ["is not a complete backup"], ["restore", backup, "--to", to])
        }
    }
}

private final class Flag: Sendable {
    private let value = Mutex(false)
    var isSet: Bool { value.withLock { $0 } }
    func set() { value.withLock { $0 = true } }
}
