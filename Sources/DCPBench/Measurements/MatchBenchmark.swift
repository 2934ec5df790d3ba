// SPDX-License-Identifier: Apache-2.0

internal import CBenchmarkKernels
internal import DCPCache
internal import DCPCore
internal import DCPOracle

/// Finding the longest stored prefix of some token ids, and making the index for it: what `cache match` measures.
public struct MatchBenchmark: Sendable {
    /// Ids of the first sequence and of the search.
    public var contexts: [Int]
    /// Forks of it that part inside its last 64 tokens, and beside them as many sequences of 1024 tokens that have nothing in
    /// common.
    public var sequences: [Int]

    public init(contexts: [Int], sequences: [Int]) {
        self.contexts = contexts
        self.sequences = sequences
    }

    /// Costs that these figures do not include.
    public static let notMeasured = [
        "chunks of ids that are not in memory: the store was just written",
        "what a client waits for on the way to a rank, and for the status of the others",
    ]

    /// Measures all combinations. Blocks; called on a separate thread.
    public func run(_ bench: Bench) throws -> [Finding] {
        var results: [Finding] = []
        for context in contexts {
            for count in sequences { results.append(try measure(context, forks: count, bench)) }
        }
        return results
    }

    private static let distinctTokens = 1024
    /// So small that keys and values do not matter.
    private static let shape = "1x1x8"

    private func measure(_ context: Int, forks: Int, _ bench: Bench) throws -> Finding {
        let shape = try AttentionShape(Self.shape)
        let parameters = Parameters("match, \(forks) forks", shape, .bfloat16, context: context, count: 1, threads: 1)
        bench.progress(parameters.label)
        let model = try shape.model(.bfloat16, layers: 1)
        let cluster = try ClusterShape(
            ranks: 1, headGroups: 1, interleave: 1, blockTokens: 1024, exchange: .allToAll)
        try bench.directory.requireRoom(
            BenchmarkStore.diskByteCount(model, tokens: context + forks * (Self.distinctTokens + 1024)))
        let store = try BenchmarkStore(directory: bench.directory.fresh("store"), cluster: cluster, model: model)
        var random = SeededGenerator(seed: bench.seed)
        let ids = (0..<context).map { _ in UInt32(random.next() >> 40) }
        let filler = MatchFiller(store, RowPattern(seed: bench.seed, dataType: .bfloat16))
        try filler.commit(store.sequence, at: 0, ids, bench.interruption)
        for fork in 0..<forks {
            try bench.interruption.check()
            let child = SequenceID(UInt64(2 + fork))
            let shared = max(context - 64 + fork % 63, 0)
            try waitFor {
                store.cache.fork(
                    parent: store.sequence, child: child, length: Position(shared), completion: $0)
            }
            try filler.commit(child, at: shared, [UInt32(1 << 24 + fork)], bench.interruption)
        }
        let shared = try index(of: store, bench)
        for number in 0..<forks {
            let id = SequenceID(UInt64(2 + forks + number))
            try waitFor { store.cache.openSequence(id: id, model: store.modelID, completion: $0) }
            let own = (0..<Self.distinctTokens).map { _ in UInt32(random.next() >> 40) }
            try filler.commit(id, at: 0, own, bench.interruption)
        }
        let all = try index(of: store, bench)
        // Parts from all of them at the last token but one.
        let wanted = Array(ids.dropLast()) + [UInt32.max]
        let times = try bench.repetition.measure(
            until: bench.interruption,
            [
                {
                    let found = try store.cache.match(model: store.modelID, scope: "", ids: wanted)
                    guard found?.length == Position(context - 1) else {
                        throw ServiceError(.internal, "A match is shorter than it must be. Report this as a bug.")
                    }
                }, { _ = try store.cache.tokenIDs(of: store.sequence, Range<Position>(0..<context)) },
            ])
        let distinct = Double(all.ids - shared.ids)
        // A difference of two times: of few sequences among many forks it may be lost in what each of them varies by.
        let seconds = all.seconds - shared.seconds
        let apart =
            seconds > 0
            ? [Figure("index, nothing in common", Samples([distinct / seconds / 1e6]), unit: "M ids/s")] : []
        return Finding(
            parameters: parameters,
            figures: [
                Figure("match", times[0].map { $0 * 1e3 }, unit: "ms").under(
                    "reading the ids", times[1].map { $0 * 1e3 })
            ] + apart + [
                Figure("index, forks", Samples([Double(shared.ids) / shared.seconds / 1e6]), unit: "M ids/s"),
                Figure(
                    "memory of an id, nothing in common",
                    Samples([Double(all.byteCount - shared.byteCount) / distinct]), unit: "B"),
                Figure("memory of a fork", Samples([Double(shared.byteCount) / Double(forks)]), unit: "B"),
            ])
    }

    private struct Index {
        var ids: Int
        var seconds: Double
        var byteCount: Int
    }

    private func index(of store: BenchmarkStore, _ bench: Bench) throws -> Index {
        try bench.interruption.check()
        let ids = store.cache.sequences.reduce(0) { $0 + $1.tokenIDs }
        let before = Self.allocated
        let start = ContinuousClock.now
        return try store.cache.withNewIndex {
            Index(ids: ids, seconds: (ContinuousClock.now - start).inSeconds, byteCount: Self.allocated - before)
        }
    }

    private static var allocated: Int { Int(dcp_allocated_bytes()) }
}

/// Commits tokens with ids, whose keys and values do not matter.
struct MatchFiller {
    private let store: BenchmarkStore
    private let chunk: KeyValueChunk
    private static let chunkTokens = 4096

    init(_ store: BenchmarkStore, _ pattern: RowPattern) {
        self.store = store
        chunk = KeyValueChunk(store.layout, tokens: Self.chunkTokens, dataType: pattern.dataType)
        chunk.fill(0..<Self.chunkTokens, pattern)
    }

    func commit(_ sequence: SequenceID, at start: Int, _ ids: [UInt32], _ interruption: Interruption) throws {
        for first in stride(from: 0, to: ids.count, by: Self.chunkTokens) {
            try interruption.check()
            let part = Array(ids[first..<min(first + Self.chunkTokens, ids.count)])
            try store.cache.append(
                sequence: sequence, layer: 0, position: Position(start + first), rows: chunk.rows(part.count),
                tokens: 0..<part.count)
            let tokens = TokenIDs(start: start + first, ids: part)
            try waitFor {
                store.cache.commit(
                    [CommitPart(sequence, length: Position(tokens.end), tokens: tokens)], completion: $0)
            }
        }
    }
}
