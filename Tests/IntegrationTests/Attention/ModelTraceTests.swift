// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPClient
import DCPCore
import DCPLocalCluster
import DCPTestKit
import DCPWire
import Foundation
import Glibc
import Testing

extension Integration {
    /// What transformers computed for models with windows, sinks, one KV head and latent attention, through real daemons.
    @Suite("traces of models")
    struct ModelTraceTests {
        private static let ranks = [1, 2, 3, 4, 8]
        private static let interleaves = [1, 16, 64]
        private static let exchanges = [Exchange.allToAll, .allGatherReduceScatter]
        private static let chunks = [1, 7, 96]
        /// Of every instruction set that this machine has.
        private static let kernels = AttentionKernels.available.map(\.name)

        /// A cluster, and the chunk of its prefill of trace number i, modulo their number.
        struct Cell: Sendable, CustomTestStringConvertible {
            var setup: ClusterSetup
            var firstChunk: Int

            func chunk(ofTrace trace: Int) -> Int {
                ModelTraceTests.chunks[(firstChunk + trace) % ModelTraceTests.chunks.count]
            }

            var testDescription: String { setup.testDescription }
        }

        private static func setup(
            _ ranks: Int, _ groups: Int, _ interleave: Int, _ exchange: Exchange, _ kernels: String
        ) -> ClusterSetup {
            var setup = ClusterSetup(
                ranks: ranks, headGroups: groups, interleave: interleave, blockTokens: max(interleave, 16),
                exchange: exchange)
            setup.kernels = kernels
            return setup
        }

        /// The whole grid would start hundreds of clusters. These are so chosen that every pair of values is among them.
        static let cells: [Cell] = {
            var cells: [Cell] = []
            for i in 0..<max(interleaves.count, kernels.count) {
                let interleave = interleaves[i % interleaves.count]
                for (r, ranks) in ranks.enumerated() {
                    let setup = setup(
                        ranks, 1, interleave, exchanges[(r + i + i / 2) % 2], kernels[(r + i) % kernels.count])
                    cells.append(Cell(setup: setup, firstChunk: r + i))
                }
                let setup = setup([2, 4, 8][i % 3], 2, interleave, exchanges[i % 2], kernels[i % kernels.count])
                cells.append(Cell(setup: setup, firstChunk: i))
            }
            return cells
        }()

        @Test("TRAPS 41, 49: prefill in chunks and decode give what transformers computed", arguments: cells)
        func fixtures(cell: Cell) async throws {
            let traces = try ModelTrace.fixtureNames.map { try ModelTrace($0) }
            try await play(traces, on: cell.setup) { [cell.chunk(ofTrace: $0)] }
        }

        private func checkKernels(of setup: ClusterSetup, _ client: Cluster) async throws {
            for rank in try await client.rankStatuses() {
                #expect(rank.kernels.hasPrefix(try #require(setup.kernels) + ","))
            }
        }

        private func play(_ trace: ModelTrace, chunk: Int, _ setup: ClusterSetup, _ client: Cluster) async throws {
            let sequence = try await client.open(trace.trace, Fresh.name(trace.name), model: trace.name)
            trace.check(
                try await client.play(trace.trace, trace.cuts(chunk: chunk), on: sequence),
                "\(setup.testDescription), chunks of \(chunk)")
        }

        @Test("every pair of values is among the cells")
        func pairs() throws {
            let traces = try ModelTrace.fixtureNames.map { try ModelTrace($0) }
            var covered = Set<[String]>()
            for cell in Self.cells {
                for (number, trace) in traces.enumerated() where trace.fits(headGroups: cell.setup.headGroups) {
                    let values = [
                        "\(cell.setup.ranks) ranks", "interleave \(cell.setup.interleave)", cell.setup.exchange.name,
                        "\(cell.setup.headGroups) groups", "chunk \(cell.chunk(ofTrace: number))", trace.name,
                        "kernels \(try #require(cell.setup.kernels))",
                    ]
                    for first in values { covered.formUnion(values.map { [first, $0] }) }
                }
            }
            let dimensions = [
                Self.ranks.map { "\($0) ranks" }, Self.interleaves.map { "interleave \($0)" },
                Self.exchanges.map(\.name),
                ["1 groups", "2 groups"], Self.chunks.map { "chunk \($0)" }, ModelTrace.fixtureNames,
                Self.kernels.map { "kernels \($0)" },
            ]
            // Head groups divide ranks and KV heads.
            let impossible: Set = ["1 ranks", "3 ranks", "starcoder-mqa", "deepseek-v3", "gemma2"]
            for (index, dimension) in dimensions.enumerated() {
                for other in dimensions[(index + 1)...] {
                    for (a, b) in dimension.flatMap({ a in other.map { (a, $0) } })
                    where !([a, b].contains("2 groups") && [a, b].contains(where: impossible.contains)) {
                        #expect(covered.contains([a, b]), "\(a) with \(b)")
                    }
                }
            }
        }

        /// Every trace of a directory, which may hold more and longer ones than the repository, on every cluster and in every
        /// chunk, with one set of kernels: the fastest, or what `DCP_KERNELS` names. Without that name each cluster is also
        /// started with one of the other sets, in turn, and the chunks of its traces take turns.
        @Test(
            "the whole grid",
            .enabled(
                if: ProcessInfo.processInfo.environment["DCP_TRACES"] != nil,
                "takes half an hour; DCP_TRACES names a directory"))
        func grid() async throws {
            let directory = try #require(ProcessInfo.processInfo.environment["DCP_TRACES"])
            let suffix = "-expected.safetensors"
            let names = try FileManager.default.contentsOfDirectory(atPath: directory).filter { $0.hasSuffix(suffix) }
            let traces = try names.sorted().map { try ModelTrace(String($0.dropLast(suffix.count)), in: directory) }
            try #require(!traces.isEmpty)
            let own = AttentionKernels.chosen.name
            let isForced = EnvironmentVariable.value(KernelSelection.variable) != nil
            let others = isForced ? [] : Self.kernels.filter { $0 != own }
            var number = 0
            for ranks in Self.ranks {
                for groups in [1, 2, 4] where ranks % groups == 0 {
                    guard traces.contains(where: { $0.fits(headGroups: groups) }) else { continue }
                    for interleave in Self.interleaves {
                        for exchange in Self.exchanges {
                            let setup = Self.setup(ranks, groups, interleave, exchange, own)
                            try await play(traces, on: setup) { _ in Self.chunks }
                            if !others.isEmpty {
                                let other = Self.setup(
                                    ranks, groups, interleave, exchange, others[number % others.count])
                                let cell = Cell(setup: other, firstChunk: number / others.count)
                                try await play(traces, on: other) { [cell.chunk(ofTrace: $0)] }
                            }
                            number += 1
                        }
                    }
                }
            }
        }

        private func play(
            _ traces: [ModelTrace], on setup: ClusterSetup, chunks: @Sendable (_ trace: Int) -> [Int]
        ) async throws {
            try await setup.run { cluster in
                try await cluster.withClient { client in
                    try await checkKernels(of: setup, client)
                    for (number, trace) in traces.enumerated() where trace.fits(headGroups: setup.headGroups) {
                        for chunk in chunks(number) { try await play(trace, chunk: chunk, setup, client) }
                    }
                }
            }
        }

        @Test("ranks killed in mid-decode and started again: not a bit differs", arguments: ["gpt-oss", "deepseek-v3"])
        func killed(name: String) async throws {
            let trace = try ModelTrace(name).trace
            let decoded = 60..<trace.tokens
            try await ClusterSetup(ranks: 3, interleave: 4).run { cluster in
                let (undisturbed, sequence) = try await cluster.withClient { client in
                    let whole = Cuts([0, 33] + Array(decoded) + [trace.tokens])
                    let undisturbed = try await client.play(
                        trace, whole, on: client.open(trace, "undisturbed", model: name), commit: .everyStep)
                    let sequence = try await client.open(trace, "disturbed", model: name)
                    _ = try await client.play(trace, Cuts([0, 33, decoded.lowerBound]), on: sequence)
                    return (undisturbed[0].suffix(decoded.count, of: trace.shape), sequence)
                }
                let answer = try await cluster.withClient { client in
                    var answer = Answer()
                    for position in decoded {
                        // Each of the ranks once, with whole blocks and without.
                        if position % 15 == 7 {
                            try await kill(position / 15 % 3, during: position, of: trace, sequence, cluster, client)
                        }
                        answer.append(try await client.step(trace, position..<position + 1, on: sequence))
                        try await client.commit(sequence, position + 1)
                    }
                    return answer
                }
                #expect(answer == undisturbed)
            }
        }

        /// SIGKILL while a token is in flight, which is then lost.
        private func kill(
            _ rank: Int, during position: Int, of trace: Trace, _ sequence: SequenceHandle, _ cluster: TestCluster,
            _ client: Cluster
        ) async throws {
            let victim = try #require(cluster.local.daemon(.rank(RankIndex(UInt16(rank)))))
            async let step = client.step(trace, position..<position + 1, on: sequence)
            victim.signal(SIGKILL)
            // Answered or not: it was not committed.
            _ = try? await step
            try await cluster.local.killRank(rank)
            try cluster.local.startRank(rank)
            try await cluster.waitUntilReady()
            let progress = try await client.resume(sequence)
            #expect(progress.committedLength == position && progress.length == position, "rank \(rank): \(progress)")
        }
    }
}
