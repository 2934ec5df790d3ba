// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCache
internal import DCPClient
internal import DCPCore
internal import DCPLocalCluster
internal import DCPOracle
internal import DCPStore
internal import DCPWire

/// The time of a join with many sequences: a join of ranks that hold the same, and one in which a rank has a token of
/// each sequence that the others lack. What `join` measures.
public struct JoinBenchmark: Sendable {
    /// Numbers of sequences; each has its own cluster.
    public var sequences: [Int]
    public var ranks: Int

    public init(sequences: [Int], ranks: Int) {
        self.sequences = sequences
        self.ranks = ranks
    }

    /// Costs that these figures do not include.
    public static let notMeasured = [
        "a network: ranks and client are processes of this machine, which share its memory and cores",
        "blocks: the sequences are empty, or have one token",
    ]

    public func run(_ bench: Bench) async throws -> [Finding] {
        var findings: [Finding] = []
        for count in sequences { findings.append(try await measure(count, bench)) }
        return findings
    }

    private func measure(_ count: Int, _ bench: Bench) async throws -> Finding {
        let shape = try AttentionShape("2x1x8")
        var parameters = Parameters("join", shape, .float32, context: 1, count: count, threads: 1)
        parameters.ranks = ranks
        bench.progress(parameters.label)
        let model = try shape.model(.float32, layers: 1)
        return try await bench.withCluster(ranks: ranks) { cluster, local in
            try await measure(parameters, model, count, local, cluster, bench)
        }
    }

    private func measure(
        _ parameters: Parameters, _ model: ModelDescription, _ count: Int, _ local: LocalCluster, _ cluster: Cluster,
        _ bench: Bench
    ) async throws -> Finding {
        try await cluster.registerModel(StepContext.model, model)
        var ids: [SequenceID] = []
        for first in stride(from: 0, to: count, by: 1024) {
            try bench.interruption.check()
            let names = (first..<min(first + 1024, count)).map { "conversation-\($0)" }
            ids += try await cluster.openSequences(names, model: StepContext.model).map { try $0.get().record.id }
        }
        var (equal, cut): ([Double], [Double]) = ([], [])
        let start = ContinuousClock.now
        // A warm-up round: the programs and the stores are in memory after it.
        while cut.isEmpty
            || bench.repetition.wantsAnother(after: cut.count - 1, elapsed: (ContinuousClock.now - start).inSeconds)
        {
            try await stopRanks(local)
            equal.append(try await join(local, cluster, bench))
            try await stopRanks(local)
            try await addToken(to: ids, model, local, bench)
            cut.append(try await join(local, cluster, bench))
        }
        let (equalSamples, cutSamples) = (Samples(Array(equal.dropFirst())), Samples(Array(cut.dropFirst())))
        return Finding(
            parameters: parameters,
            figures: [
                Figure("join, all equal", equalSamples, unit: "s"),
                Figure("join, a token cut from each", cutSamples, unit: "s").under("all equal", equalSamples),
            ])
    }

    private func stopRanks(_ local: LocalCluster) async throws {
        for rank in 0..<ranks { try await local.stop(.rank(RankIndex(UInt16(rank))), deadline: .seconds(60)) }
    }

    /// From the start of the ranks to a cluster that is ready, seconds.
    private func join(_ local: LocalCluster, _ cluster: Cluster, _ bench: Bench) async throws -> Double {
        // The coordinator sees the connections end; nothing but its answer tells when.
        while try await cluster.topology().phase == .ready { try bench.interruption.check() }
        let clock = ContinuousClock.now
        _ = try local.startMissing()
        _ = try await cluster.readyTopology(wait: .seconds(600))
        return (ContinuousClock.now - clock).inSeconds
    }

    /// Gives the first rank, which does not run, one committed token of each sequence.
    private func addToken(
        to ids: [SequenceID], _ model: ModelDescription, _ local: LocalCluster, _ bench: Bench
    ) async throws {
        let shape = try local.configuration.shape()
        let directory = local.directory.data(of: .rank(RankIndex(0)))
        let pattern = RowPattern(seed: bench.seed, dataType: .float32)
        try await onOwnThread {
            let cache = try ShardCache.open(
                directory: directory, rank: RankIndex(0), cluster: shape,
                settings: ShardCache.Settings(durability: .never))
            defer { cache.close() }
            let chunk = KeyValueChunk(PanelLayout(model[0], .float32, in: shape), tokens: 1, dataType: .float32)
            chunk.fill(0..<1, pattern)
            for first in stride(from: 0, to: ids.count, by: 4096) {
                try bench.interruption.check()
                let part = ids[first..<min(first + 4096, ids.count)]
                for id in part {
                    try cache.append(
                        sequence: id, layer: 0, position: Position(0), rows: chunk.rows(1), tokens: 0..<1)
                }
                try waitFor { cache.commit(part.map { ($0, Position(1)) }, completion: $0) }
            }
        }
    }
}
