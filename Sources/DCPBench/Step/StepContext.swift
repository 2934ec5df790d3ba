// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCache
internal import DCPClient
internal import DCPCore
internal import DCPLocalCluster
internal import DCPOracle
internal import DCPTransport
internal import DCPWire

/// A sequence that the ranks of a cluster hold, and parts of it for the float64 check.
struct StepContext: Sendable {
    static let model = "benchmark"
    static let sequence = "benchmark"

    let tokens: Int
    let pattern: RowPattern
    /// The first and the last KV head, and for each keys `[tokens][Dk]` and values `[tokens][Dv]` as the ranks hold them.
    let heads: [(kvHead: Int, keys: [Float], values: [Float])]

    /// Creates a model and a sequence with this many committed tokens in a running cluster.
    ///
    /// The coordinator creates both; then the ranks are stopped, their stores are filled here with the ranks' code, and
    /// the ranks are restarted and report their lengths to the coordinator. Prefill of 128k tokens step by step would
    /// take minutes of attention that is not measured here.
    static func fill(
        _ cluster: StepCluster, _ model: ModelDescription, tokens: Int, _ bench: Bench
    ) async throws -> StepContext {
        let local = cluster.local
        let pattern = RowPattern(seed: bench.seed, dataType: model.kvFormat.rowType)
        let shape = try local.configuration.shape()
        let heads = Heads(
            parts: Set([0, model.kvHeads - 1]).sorted().map {
                (
                    kvHead: $0, keys: [Float](repeating: 0, count: tokens * model.keyDim),
                    values: [Float](repeating: 0, count: tokens * model.valueDim)
                )
            })
        try await fillStores(local, tls: cluster.tls, model, tokens: tokens, pattern, bench) { store, rank in
            try collect(store, rank, shape, tokens, model, into: &heads.parts)
        }
        _ = try local.startMissing()
        return StepContext(tokens: tokens, pattern: pattern, heads: heads.parts)
    }

    /// @unchecked Sendable: changed on the thread that fills, and read when that is done.
    private final class Heads: @unchecked Sendable {
        var parts: [(kvHead: Int, keys: [Float], values: [Float])]

        init(parts: [(kvHead: Int, keys: [Float], values: [Float])]) { self.parts = parts }
    }

    /// Makes model and sequence, stops the ranks and fills their stores; the ranks are left stopped.
    /// - Parameter visit: sees each store when it is full, before it is closed.
    static func fillStores(
        _ local: LocalCluster, tls: TLSCredentials? = nil, _ model: ModelDescription, tokens: Int,
        _ pattern: RowPattern,
        _ bench: Bench,
        visit: @escaping @Sendable (BenchmarkStore, RankIndex) throws -> Void = { _, _ in }
    ) async throws {
        let first = try await connect(local, tls: tls)
        let sequence: SequenceHandle
        do {
            try await first.registerModel(Self.model, model)
            sequence = try await first.openSequence(Self.sequence, model: Self.model)
            await first.close()
        } catch {
            await first.close()
            throw error
        }
        let shape = try local.configuration.shape()
        let ranks = shape.allRanks.map { DaemonRole.rank($0) }
        for rank in ranks { try await local.stop(rank, deadline: .seconds(20)) }
        let directories = ranks.map { local.directory.data(of: $0) }
        bench.progress("writing \(tokens) tokens of keys and values into the stores of \(ranks.count) ranks")
        try await onOwnThread {
            for (rank, directory) in zip(shape.allRanks, directories) {
                let store = try BenchmarkStore(
                    directory: directory, rank: rank, cluster: shape, model: model, modelID: sequence.model.id,
                    sequence: sequence.record.id, isTemporary: false)
                try store.fill(upTo: tokens, pattern, bench.interruption)
                try visit(store, rank)
            }
        }
    }

    /// Puts what a rank holds of some KV heads in its global place.
    private static func collect(
        _ store: BenchmarkStore, _ rank: RankIndex, _ shape: ClusterShape, _ tokens: Int, _ model: ModelDescription,
        into parts: inout [(kvHead: Int, keys: [Float], values: [Float])]
    ) throws {
        let reader = try store.context(tokens)
        let blocks = KVBlocks(layout: reader.layout, blocks: reader.blocks, tokens: reader.tokens, isMapped: true)
        for index in parts.indices {
            let (keys, values) = AccuracyCheck.read(blocks, kvHead: parts[index].kvHead)
            for local in 0..<reader.tokens {
                let position = shape.layout.position(ofLocalIndex: local, rank: shape.contextRank(of: rank))
                for dim in 0..<model.keyDim {
                    parts[index].keys[position * model.keyDim + dim] = keys[local * model.keyDim + dim]
                }
                for dim in 0..<model.valueDim {
                    parts[index].values[position * model.valueDim + dim] = values[local * model.valueDim + dim]
                }
            }
        }
    }

    /// A client of the cluster, once it is ready.
    static func connect(_ local: LocalCluster, tls: TLSCredentials? = nil) async throws -> Cluster {
        let deadline = Duration.seconds(60)
        try await local.waitUntilReady(deadline: deadline) { endpoint async throws(ServiceError) in
            let cluster = try await Cluster.connectWhenReady(to: Endpoint(endpoint), wait: deadline, tls: tls)
            await cluster.close()
        }
        return try await Cluster.connectWhenReady(to: Endpoint(local.coordinatorEndpoint), wait: deadline, tls: tls)
    }
}
