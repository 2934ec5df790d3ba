// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCache
public import DCPCore
internal import DCPHost
public import DCPStore
internal import Foundation
internal import Synchronization

/// Decode tokens that are committed one by one: what `cache commit` measures.
public struct CommitBenchmark: Sendable {
    public var shapes: [AttentionShape]
    public var formats: [CacheFormat]
    public var layers: Int
    /// Each has its own sequence and commits after each token, all into one store.
    public var clients: [Int]
    /// Context ranks of the cluster: this store's rank owns one token in this many, and takes part in every commit.
    public var ranks: [Int]
    public var durabilities: [Durability]

    public init(
        shapes: [AttentionShape], formats: [CacheFormat], layers: Int, clients: [Int], ranks: [Int],
        durabilities: [Durability]
    ) {
        self.shapes = shapes
        self.formats = formats
        self.layers = layers
        self.clients = clients
        self.ranks = ranks
        self.durabilities = durabilities
    }

    /// Costs that these figures do not include.
    public static let notMeasured = [
        "attention between the commits: tokens come as fast as they can be appended",
        "what the disk itself writes beyond the pages it is given",
    ]

    /// Measures all combinations. Blocks; called on a separate thread.
    public func run(_ bench: Bench) throws -> [Finding] {
        try AttentionShape.check(shapes, formats)
        var results: [Finding] = []
        for format in formats {
            for shape in shapes {
                for ranks in ranks {
                    for clients in clients {
                        for durability in durabilities {
                            results.append(try measure(shape, format, ranks, clients, durability, bench))
                        }
                    }
                }
            }
        }
        return results
    }

    /// Measured in rounds of a block of local tokens, so that each seals as often as it goes on.
    private func measure(
        _ shape: AttentionShape, _ format: CacheFormat, _ ranks: Int, _ clients: Int, _ durability: Durability,
        _ bench: Bench
    ) throws -> Finding {
        var parameters = Parameters("commit", shape, format, count: 1, threads: clients)
        parameters.durability = durability.rawValue
        parameters.ranks = ranks
        bench.progress(parameters.label)
        let model = try shape.model(format, layers: layers)
        let cluster = try ClusterShape(
            ranks: ranks, headGroups: 1, interleave: 1, blockTokens: 64, exchange: .allToAll)
        let rounds = bench.repetition.runs ?? 3
        try bench.directory.requireRoom(
            BenchmarkStore.diskByteCount(model, tokens: clients * cluster.layout.blockTokens * (rounds + 3)))
        let store = try BenchmarkStore(
            directory: bench.directory.fresh("store"), cluster: cluster, model: model, durability: durability)
        let decode = try Decode(store, clients: clients, RowPattern(seed: bench.seed, dataType: .bfloat16))
        let team = Team(threads: clients)
        // Two rounds to fill the pool of blocks and to find pages to reuse.
        for _ in 0..<2 { _ = try decode.round(team, bench.interruption) }
        var (written, dirtied, shared, latencies): ([Double], [Double], [Double], [Double]) = ([], [], [], [])
        for _ in 0..<rounds {
            let before = ProcessIO.current
            let transactions = try store.cache.statistics().transactionsCommitted
            latencies += try decode.round(team, bench.interruption)
            let after = ProcessIO.current
            let tokens = Double(clients * cluster.layout.blockTokens)
            written.append(Double(after.writtenByteCount - before.writtenByteCount) / tokens / 1024)
            dirtied.append(Double(after.dirtiedByteCount - before.dirtiedByteCount) / tokens / 1024)
            let commits = tokens * Double(ranks)
            shared.append(
                commits / Double(try store.cache.statistics().transactionsCommitted - transactions))
        }
        let payload = Samples([Double(store.byteCount(localTokens: 1) * layers) / 1024])
        return Finding(
            parameters: parameters,
            figures: [
                Figure("written, sealing included", Samples(written), unit: "KiB/token").of(
                    "payload", payload, detail: "K and V of a token in all layers, which every durable form holds"),
                Figure("of it to the disk", Samples(dirtied), unit: "KiB/token").of("payload", payload),
                Figure("commit", Samples(latencies.map { $0 * 1e6 }), unit: "us"),
                Figure("commits a transaction", Samples(shared), unit: ""),
            ])
    }
}

/// Bytes written by this process so far: proc(5), `/proc/pid/io`.
private struct ProcessIO {
    /// Bytes given to write calls.
    var writtenByteCount = 0
    /// Bytes of pages made dirty that were clean: a page that is written again before the kernel has stored it counts
    /// once. Less those of files that were deleted before.
    var dirtiedByteCount = 0

    static var current: ProcessIO {
        let counts = ProcessCounts(path: "/proc/self/io")
        return ProcessIO(
            writtenByteCount: counts?["wchar"] ?? 0,
            dirtiedByteCount: (counts?["write_bytes"] ?? 0) - (counts?["cancelled_write_bytes"] ?? 0))
    }
}

/// Clients that append a token to every layer of their sequence and commit it, again and again.
private final class Decode {
    private let store: BenchmarkStore
    private let sequences: [SequenceID]
    private let chunk: KeyValueChunk
    private let tokens: Int
    private var length = 0

    init(_ store: BenchmarkStore, clients: Int, _ pattern: RowPattern) throws {
        self.store = store
        sequences = (0..<clients).map { SequenceID(UInt64(100 + $0)) }
        // Rows whose values do not matter: a commit writes as many bytes for any.
        tokens = store.cache.cluster.ranks * store.layout.blockTokens
        chunk = KeyValueChunk(store.layout, tokens: 1, dataType: pattern.dataType)
        chunk.fill(0..<1, pattern)
        for sequence in sequences {
            try waitFor { store.cache.openSequence(id: sequence, model: store.modelID, completion: $0) }
        }
    }

    /// As many tokens as fill a block of this rank, from every client at the same time.
    /// - Returns: what each commit took, seconds.
    func round(_ team: Team, _ interruption: Interruption) throws -> [Double] {
        let outcome = Mutex<Result<[Double], ServiceError>>(.success([]))
        let (cache, sequences, chunk, layers) = (store.cache, sequences, chunk, store.model.layers)
        let range = Range<Position>(length..<length + tokens)
        try interruption.check()
        team.onEach { client in
            var times: [Double] = []
            do throws(ServiceError) {
                for position in range {
                    for layer in 0..<layers {
                        try cache.append(
                            sequence: sequences[client], layer: layer, position: position, rows: chunk.rows(1),
                            tokens: 0..<1)
                    }
                    let began = ContinuousClock.now
                    try waitFor { cache.commit([(sequences[client], position + 1)], completion: $0) }
                    times.append((ContinuousClock.now - began).inSeconds)
                }
                outcome.withLock { $0 = $0.map { $0 + times } }
            } catch {
                outcome.withLock { $0 = .failure(error) }
            }
        }
        length = range.upperBound.value
        return try outcome.withLock { $0 }.get()
    }
}
