import DCPClient
import DCPCore
import DCPTestKit
import DCPWire
import Foundation
import Glibc
import Testing

extension Integration {
    @Suite("full disk")
    struct FullDiskTests {
        @Test("TRAPS 12: a rank's full disk fails commits with a retryable error; ranks serve on, and space heals it")
        func fullDisk() async throws {
            let disk = TemporaryDirectory()
            guard geteuid() == 0, mount("tmpfs", disk.path, "tmpfs", 0, "size=2m") == 0 else {
                try Test.cancel("A small disk can be mounted by root only.")
            }
            defer { umount2(disk.path, Int32(MNT_DETACH)) }
            let trace = Trace(try shape(4, 4, 64, 64, .float32), tokens: 3000, salt: 700)
            let directory = TemporaryDirectory()
            // Rank 1's store is on the small disk.
            let place = try LocalClusterDirectory(path: directory.path("c"))
            try FileManager.default.createDirectory(atPath: place.path, withIntermediateDirectories: true)
            symlink(disk.path, place.data(of: .rank(RankIndex(1))))
            let cluster = try TestCluster(
                directory: directory,
                local: LocalCluster.start(in: place, options: ClusterSetup(ranks: 2, blockTokens: 64).options))
            do {
                try await cluster.waitUntilReady()
                try await fill(trace, cluster)
            } catch {
                await cluster.local.stop(deadline: .seconds(30))
                throw error
            }
            await cluster.local.stop(deadline: .seconds(30))
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
                // The tokens are there and are served; only durability waits.
                let next = committed + 100
                let answer = Answer(try await client.step(trace, next..<next + 1, on: sequence))
                trace.check(answer, next..<next + 1, "on a full disk")
                let progress = try await client.status(of: sequence)
                #expect(progress.committedLength == committed && progress.layerLengths == [next + 1])
                let file = cluster.directory.path("more.safetensors")
                try trace.write(next + 1..<next + 101, to: file)
                try await cluster.tool.fails(
                    75, saying: ["rank 1", "full"], ["submit", file, "--sequence", "s", "--model", "m"])
                // Space makes the same commit succeed.
                try await client.closeSequence("filler")
                try await client.commit(sequence, next + 1)
                #expect(try await client.status(of: sequence).committedLength == next + 1)
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
