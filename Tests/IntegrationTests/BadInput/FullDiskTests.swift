// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPWire
import Foundation
import Glibc
import Testing

extension Integration {
    @Suite("full disk")
    struct FullDiskTests {
        @Test("TRAPS 12: a rank's full disk fails commits and new tokens alike on all ranks, retryably; space heals it")
        func fullDisk() async throws {
            let trace = Trace(try shape(4, 4, 64, 64, .float32), tokens: 3000, salt: 700)
            try await withSmallDisk(of: .rank(RankIndex(1))) { cluster, _ in try await fill(trace, cluster) }
        }

        /// Runs a body with a cluster of two ranks, one of whose daemons has 2 MiB of disk.
        private func withSmallDisk(
            of role: DaemonRole, _ body: (TestCluster, TemporaryDirectory) async throws -> Void
        ) async throws {
            let disk = TemporaryDirectory()
            guard geteuid() == 0, mount("tmpfs", disk.path, "tmpfs", 0, "size=2m") == 0 else {
                try Test.cancel("A small disk can be mounted by root only.")
            }
            defer { umount2(disk.path, Int32(MNT_DETACH)) }
            let directory = TemporaryDirectory()
            let place = try LocalClusterDirectory(path: directory.path("c"))
            try FileManager.default.createDirectory(atPath: place.path, withIntermediateDirectories: true)
            symlink(disk.path, place.data(of: role))
            let cluster = try TestCluster(
                directory: directory,
                local: LocalCluster.start(in: place, options: ClusterSetup(ranks: 2, blockTokens: 64).options))
            do {
                try await cluster.waitUntilReady()
                try await body(cluster, disk)
            } catch {
                await cluster.local.stop(deadline: .seconds(30))
                throw error
            }
            await cluster.local.stop(deadline: .seconds(30))
        }

        @Test(
            "a full disk of the coordinator's state: requests are refused retryably, and the daemon stays; space heals it"
        )
        func coordinator() async throws {
            let trace = Trace(try shape(4, 4, 64, 64, .float32), tokens: 20, salt: 701)
            try await withSmallDisk(of: .coordinator) { cluster, disk in
                let daemon = try #require(cluster.local.daemon(.coordinator)).pid
                // Who was not answered before the disk was found to be full waits in vain.
                let client = try await Cluster.connectWhenReady(
                    to: Endpoint(cluster.local.coordinatorEndpoint), wait: .seconds(90),
                    timeouts: Cluster.Timeouts(request: .seconds(3)))
                let sequence = try await client.open(trace, "s", model: "m")
                _ = try await client.play(trace, Cuts([0, 10]), on: sequence)
                let epoch = try await client.readyTopology().epoch
                let filler = disk.path("filler")
                try Self.fill(filler)
                // More than the free pages of the state's file take.
                let names = (0..<2000).map { "s-\($0)" }
                let waited = await #expect(throws: ServiceError.self) {
                    try await client.openSequences(names, model: "m")
                }
                #expect(waited?.isRetryable == true, "\(String(describing: waited))")
                let refused = await #expect(throws: ServiceError.self) {
                    try await client.openSequence("one", model: "m")
                }
                #expect(refused?.code == .storeFull && refused?.isRetryable == true)
                #expect(refused?.message.contains("free space") == true, "\(String(describing: refused))")
                // The ranks serve what is open.
                _ = try await client.step(trace, 10..<20, on: sequence)
                try FileManager.default.removeItem(atPath: filler)
                var outages = Outages(allowance: .seconds(60))
                let opened = try await client.persistently(&outages) { () async throws(ServiceError) in
                    try await client.openSequences(names, model: "m")
                }
                for result in opened { _ = try result.get() }
                #expect(opened.count == names.count)
                #expect(cluster.local.daemon(.coordinator)?.pid == daemon)
                #expect(try await client.topology().epoch == epoch)
                await client.close()
            }
        }

        /// Writes a file that takes all room of its disk.
        private static func fill(_ path: String) throws {
            let descriptor = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0o600)
            guard descriptor >= 0 else { throw POSIXError(POSIXErrorCode(rawValue: errno) ?? .EIO) }
            defer { close(descriptor) }
            let page = [UInt8](repeating: 1, count: 4096)
            while write(descriptor, page, page.count) == page.count {}
        }

        private func fill(_ trace: Trace, _ cluster: TestCluster) async throws {
            try await cluster.withClient { client in
                let filler = try await client.open(trace, "filler", model: "m")
                _ = try await client.play(trace, Cuts([0, 500]), on: filler)
                let sequence = try await client.open(trace, "s", model: "m")
                var (committed, failure): (Int, ServiceError?) = (0, nil)
                for position in stride(from: 0, to: 3000, by: 100) where failure == nil {
                    _ = try await client.step(trace, position..<position + 100, on: sequence)
                    do throws(ServiceError) {
                        try await client.commit(sequence, position + 100)
                        committed = position + 100
                    } catch {
                        failure = error
                    }
                }
                let error = try #require(failure, "the disk never filled up")
                #expect(error.code == .storeFull && error.isRetryable)
                #expect("\(error)".contains("rank 1") && error.message.contains("disk is full"), "\(error)")
                #expect(committed > 0)
                // The tokens are there; only durability waits. New ones are refused, and the ranks stay even.
                let next = committed + 100
                for _ in 0..<3 {
                    let refusal = await #expect(throws: ServiceError.self) {
                        try await client.step(trace, next..<next + 1, on: sequence)
                    }
                    #expect(
                        refusal?.code == .storeFull && refusal?.rank == RankIndex(1), "\(String(describing: refusal))")
                    let progress = try await client.resume(sequence)
                    #expect(progress.committedLength == committed && progress.layerLengths == [next])
                }
                // Rank 0, whose disk has room, has heard of it.
                let statuses = try await client.statuses { $0[0].room.refusal.contains("rank 1") }
                #expect(statuses[0].room.condition == .writable && statuses[1].room.condition == .refused)
                let file = cluster.directory.path("more.safetensors")
                try trace.write(next..<next + 100, to: file)
                try await cluster.tool.fails(
                    75, saying: ["rank 1", "full"], ["submit", file, "--sequence", "s", "--model", "m"])
                let status = try await cluster.tool.run("status")
                #expect(status.data.contains("No new tokens: The disk of the store of rank 1"), "\(status.data)")
                // Space makes the same commit succeed, and then all ranks take tokens again.
                try await client.closeSequence("filler")
                // `submit` has claimed the sequence meanwhile.
                #expect(try await client.resume(sequence).layerLengths == [next])
                try await client.commit(sequence, next)
                #expect(try await client.status(of: sequence).committedLength == next)
                _ = try await client.statuses { $0.allSatisfy(\.room.refusal.isEmpty) }
                let answer = Answer(try await client.step(trace, next..<next + 1, on: sequence))
                trace.check(answer, next..<next + 1, "with room again")
            }
            // After the failed submit the ranks agree again, and nothing that was answered is lost.
            for role in cluster.local.roles { try await cluster.local.kill(role) }
            for role in cluster.local.roles { try cluster.local.start(role) }
            try await cluster.waitUntilReady()
            try await cluster.withClient { client in
                let sequence = try await client.openSequence("s", model: nil)
                let length = try await client.resume(sequence).committedLength
                let answer = Answer(try await client.step(trace, length..<length + 5, on: sequence))
                trace.check(answer, length..<length + 5, "after the disk was full")
            }
        }
    }
}
