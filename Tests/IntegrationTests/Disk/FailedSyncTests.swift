// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPWire
import Foundation
import Testing

extension Integration {
    @Suite("failed sync", .timeLimit(.minutes(5)))
    struct FailedSyncTests {
        /// The disk that fails, compiled for the daemons to load.
        private func library(in directory: TemporaryDirectory) throws -> String {
            let path = directory.path("faulty-disk.so")
            let compiler = Process()
            compiler.executableURL = URL(filePath: "/usr/bin/env")
            compiler.arguments = [
                "clang", "-shared", "-fPIC", "-Wall", "-Werror", "-o", path,
                repositoryFile("Tests/Support/faulty-disk/faulty-disk.c"),
            ]
            try compiler.run()
            compiler.waitUntilExit()
            guard compiler.terminationStatus == 0 else { try Test.cancel("No clang in PATH compiles the faulty disk.") }
            return path
        }

        @Test(
            "a rank whose sync fails stops writing, all ranks refuse alike, and a restart verifies its store",
            arguments: ["always", "everysec"])
        func failedSync(_ durability: String) async throws {
            let trace = Trace(try shape(4, 4, 64, 64, .float32), tokens: 400, salt: 720)
            let tools = TemporaryDirectory()
            let control = tools.path("control")
            var setup = ClusterSetup(ranks: 2)
            setup.rankArguments = ["--durability", durability]
            setup.environment = ["LD_PRELOAD": try library(in: tools), "DCP_FAULTY_DISK": control]
            try await setup.run { cluster in
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s", model: "m")
                    _ = try await client.play(trace, Cuts([0, 100]), on: sequence)
                    _ = try await client.play(trace, Cuts([100, 150]), on: sequence, commit: .never)
                    let store = cluster.local.directory.data(of: .rank(RankIndex(1)))
                    try URL(filePath: store).resolvingSymlinksInPath().path
                        .write(toFile: control, atomically: true, encoding: .utf8)
                    do throws(ServiceError) {
                        try await client.commit(sequence, 150)
                        #expect(durability == "everysec", "acknowledged although it is not on the disk")
                    } catch {
                        #expect(durability == "always" && error.code == .storeDamaged && !error.isRetryable)
                        #expect("\(error)".contains("rank 1"), "\(error)")
                    }
                    // Both know: rank 1 by itself, rank 0 by the coordinator.
                    let statuses = try await client.statuses {
                        $0[1].room.condition == .failed && $0[0].room.refusal.contains("nothing more is written")
                    }
                    #expect(statuses[0].room.condition == .writable)
                    // The disk is well again; what it lost is not.
                    try FileManager.default.removeItem(atPath: control)
                    let again = await #expect(throws: ServiceError.self) { try await client.commit(sequence, 150) }
                    #expect(again?.code == .storeDamaged)
                    let step = await #expect(throws: ServiceError.self) {
                        try await client.step(trace, 150..<151, on: sequence)
                    }
                    #expect(step?.code == .storeDamaged && step?.rank == RankIndex(1), "\(String(describing: step))")
                    #expect(try await cluster.tool.run("status").data.contains("failed"))
                }
                try await cluster.local.killRank(1)
                try cluster.local.startRank(1)
                try await cluster.waitUntilReady()
                let log = try cluster.log(of: .rank(RankIndex(1)))
                #expect(log.contains("The store refuses new tokens") && log.contains("Verified the store"))
                try await cluster.withClient { client in
                    let sequence = try await client.openSequence("s", model: nil)
                    let length = try await client.resume(sequence).committedLength
                    #expect(length == 100 || length == 150)
                    let answer = Answer(try await client.step(trace, length..<length + 20, on: sequence))
                    trace.check(answer, length..<length + 20, "after the restart")
                    try await client.commit(sequence, length + 20)
                }
            }
        }
    }
}
