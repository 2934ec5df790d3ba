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
    /// Ranks of one host, whose tensors go through shared memory.
    @Suite("shared memory", .timeLimit(.minutes(15)))
    struct SharedMemoryTests {
        private static func trace(tokens: Int) throws -> Trace {
            Trace(try shape(layers: 2, 12, 4, 64, 64, .bfloat16), tokens: tokens, salt: 970)
        }

        /// Payloads from some KiB to two hundred.
        private static let counts = [70, 1, 1, 100, 1, 27]

        @Test(
            "the answers have the same bits through memory and over the connection; status and metrics say which way it is",
            arguments: [Exchange.allToAll, .allGatherReduceScatter])
        func bits(exchange: Exchange) async throws {
            let trace = try Self.trace(tokens: 200)
            var answers: [[Answer]] = []
            for setting in ["on", "off"] {
                let setup = ClusterSetup(
                    ranks: 3, exchange: exchange, rankArguments: ["--shared-memory", setting])
                try await setup.run { cluster in
                    let played = try await cluster.withClient { client in
                        let sequence = try await client.open(trace, "s", model: "m")
                        return try await client.play(trace, Cuts(counts: Self.counts), on: sequence)
                    }
                    for (layer, answer) in played.enumerated() { trace.check(answer, layer: layer, 0..<200, setting) }
                    answers.append(played)
                    let sharing = setting == "on" ? 2 : 0
                    let status = try await cluster.tool.run("status", "--json").object()
                    for rank in try #require(status["ranks"] as? [[String: Any]]) {
                        let counters = try #require(rank["counters"] as? [String: Any])
                        #expect(counters["peers_connected"] as? Int == 2)
                        #expect(counters["peers_sharing_memory"] as? Int == sharing)
                    }
                    let metrics = try await cluster.get("/metrics", of: .rank(RankIndex(1))).body
                    #expect(metrics.contains("dcp_peers_sharing_memory{rank=\"1\"} \(sharing)\n"), "\(metrics)")
                    let none = metrics.contains("dcp_shared_memory_payloads_total{rank=\"1\"} 0\n")
                    #expect(none == (setting == "off"), "\(metrics)")
                    let doctor = try await cluster.tool.run("doctor")
                    #expect(doctor.data.contains("2 through shared memory") == (setting == "on"), "\(doctor.data)")
                }
            }
            #expect(answers.count == 2 && answers[0] == answers[1])
        }

        @Test(
            "a rank killed in the middle of writing into memory: its peer and the client recover",
            arguments: [0, 1])
        func killedWhileWriting(rank: Int) async throws {
            let trace = try Self.trace(tokens: 200)
            try await ClusterSetup(ranks: 2).run { cluster in
                let role = DaemonRole.rank(RankIndex(UInt16(rank)))
                try await cluster.local.kill(role)
                try cluster.local.start(role, environment: ["DCP_FAIL_POINT": "\(FailPoint.ringWriting.rawValue):5"])
                try await cluster.waitUntilReady()
                let armed = try #require(cluster.local.daemon(role))
                try await cluster.withClient { client in
                    let sequence = try await client.open(trace, "s", model: "m")
                    let error = await #expect(throws: ServiceError.self) {
                        try await client.play(trace, Cuts(counts: Self.counts), on: sequence)
                    }
                    #expect(
                        error?.isRetryable == true && error?.code != .deadlineExceeded, "\(String(describing: error))")
                    #expect(error.map { "\($0)".contains("rank \(rank)") } == true, "\(String(describing: error))")
                    let exit = try await onOwnThread { armed.waitForExit(until: .now + .seconds(60)) }
                    #expect(exit == .signal(SIGKILL))
                    try cluster.local.start(role)
                    try await cluster.waitUntilReady()
                    let progress = try await client.resume(sequence)
                    let answers = try await client.play(
                        trace, Cuts(from: progress.committedLength, counts: [50, 60, 90]), on: sequence)
                    for (layer, answer) in answers.enumerated() {
                        trace.check(answer, layer: layer, 0..<200, "after rank \(rank) came back")
                    }
                    _ = try await client.statuses { $0.allSatisfy { $0.peersSharingMemory == 1 } }
                }
            }
        }

        /// For ten minutes with DCP_FUZZ_SECONDS=600.
        @Test("garbage in the memory of ranks at work: wrong numbers and refusals, and every daemon lives")
        func garbage() async throws {
            let seconds = ProcessInfo.processInfo.environment["DCP_FUZZ_SECONDS"].flatMap { Int($0) } ?? 4
            let trace = try Self.trace(tokens: 200)
            var generator = SeededGenerator.ofRun(salt: 971)
            try await ClusterSetup(ranks: 2).run { cluster in
                let daemons = try [0, 1].map { try #require(cluster.local.daemon(.rank(RankIndex($0)))) }
                let end = ContinuousClock.now + .seconds(seconds)
                var (writes, answered, failed) = (0, 0, 0)
                while ContinuousClock.now < end {
                    try await cluster.withClient { client in
                        let sequence = try await client.open(trace, Fresh.name("s"), model: "m")
                        for range in Cuts(counts: Self.counts).ranges {
                            let victim = daemons[Int.random(in: 0...1, using: &generator)].pid
                            let seed = generator.next()
                            async let written = onOwnThread { try SharedMemory(of: victim).fill(seed: seed) }
                            do throws(ServiceError) {
                                _ = try await client.step(trace, range, on: sequence)
                                answered += 1
                            } catch {
                                failed += 1
                            }
                            writes += try await written
                        }
                    }
                    try await cluster.waitUntilReady()
                }
                #expect(writes > 0 && answered > 0, "seed \(SeededGenerator.seed): \(writes), \(answered), \(failed)")
                let after = [0, 1].map { cluster.local.daemon(.rank(RankIndex($0)))?.pid }
                #expect(after == daemons.map(\.pid), "seed \(SeededGenerator.seed)")
                // Undisturbed, they answer correctly again after a while: the last damaged count may still end one more
                // connection.
                let answers = try await cluster.withClient { client in
                    var answers: [Answer]?
                    while answers == nil {
                        _ = try await client.statuses { $0.allSatisfy { $0.peersSharingMemory == 1 } }
                        do throws(ServiceError) {
                            let sequence = try await client.open(trace, Fresh.name("s"), model: "m")
                            answers = try await client.play(trace, Cuts(counts: Self.counts), on: sequence)
                        } catch {
                            #expect(error.isRetryable, "seed \(SeededGenerator.seed): \(error)")
                        }
                    }
                    return answers ?? []
                }
                for (layer, answer) in answers.enumerated() { trace.check(answer, layer: layer, 0..<200, "after it") }
            }
        }
    }
}

/// The rings that a process has mapped, written from outside: as a peer would, who has them mapped too.
private struct SharedMemory {
    private let descriptor: CInt
    private let maps: [Range<UInt>]

    init(of process: pid_t) throws {
        descriptor = open("/proc/\(process)/mem", O_RDWR | O_CLOEXEC)
        guard descriptor >= 0 else { throw POSIXError(POSIXErrorCode(rawValue: errno) ?? .EIO) }
        maps = try String(contentsOfFile: "/proc/\(process)/maps", encoding: .utf8).split(separator: "\n")
            .filter { $0.contains("memfd:dcp-rings") }.compactMap { line in
                let ends = line.prefix { $0 != " " }.split(separator: "-").compactMap { UInt($0, radix: 16) }
                return ends.count == 2 ? ends[0]..<ends[1] : nil
            }
    }

    /// Writes garbage to the counts, and to the first pages of each ring, a few hundred times.
    /// - Returns: how many writes there were. The process may unmap the memory meanwhile.
    func fill(seed: UInt64) -> Int {
        defer { close(descriptor) }
        var generator = SeededGenerator(seed: seed)
        var writes = 0
        for map in maps {
            let ring = (map.count - 4096) / 2
            for _ in 0..<300 {
                let place = Int.random(in: 0..<4096 / 8, using: &generator) * 8
                var value =
                    Bool.random(using: &generator) ? generator.next() : UInt64.random(in: 0...64, using: &generator)
                let offset = [0, 64, 4096 + place * 8, 4096 + ring + place * 8].randomElement(using: &generator)!
                if pwrite(descriptor, &value, 8, off_t(map.lowerBound) + off_t(offset)) == 8 { writes += 1 }
            }
        }
        return writes
    }
}
