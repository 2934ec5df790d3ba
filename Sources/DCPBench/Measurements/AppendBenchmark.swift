// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCache
public import DCPCore
public import DCPStore
internal import Synchronization

/// Appending a chunk of tokens to the cache and committing it: what `cache append` measures.
public struct AppendBenchmark: Sendable {
    public var shapes: [AttentionShape]
    public var formats: [CacheFormat]
    /// Tokens in the store before the first append.
    public var contexts: [Int]
    /// Each thread appends to its own layer; there is one commit.
    public var threads: [Int]
    /// Tokens of a chunk.
    public var count: Int
    /// The dtype of the rows that steps bring.
    public var rows: DataType
    public var durabilities: [Durability]

    public init(
        shapes: [AttentionShape], formats: [CacheFormat], contexts: [Int], threads: [Int], count: Int, rows: DataType,
        durabilities: [Durability]
    ) {
        self.shapes = shapes
        self.formats = formats
        self.contexts = contexts
        self.threads = threads
        self.count = count
        self.rows = rows
        self.durabilities = durabilities
    }

    /// Costs that these figures do not include.
    public static let notMeasured = [
        "receiving the rows: they lie in memory, in no cache",
        "several commits that share a transaction, which cost less together",
        "the write to disk after a commit that does not wait for it (`never`, `everysec`)",
    ]

    /// Measures all combinations. Blocks; called on a separate thread.
    public func run(_ bench: Bench) throws -> [Finding] {
        try AttentionShape.check(shapes, formats)
        var results: [Finding] = []
        for format in formats {
            for shape in shapes {
                for context in contexts {
                    for threads in threads {
                        for durability in durabilities {
                            results.append(
                                try measure(
                                    shape, format, context, threads, durability, bench))
                        }
                    }
                }
            }
        }
        return results
    }

    private func measure(
        _ shape: AttentionShape, _ format: CacheFormat, _ context: Int, _ threads: Int, _ durability: Durability,
        _ bench: Bench
    ) throws -> Finding {
        var parameters = Parameters(
            "append", shape, format, context: context, count: count, threads: threads)
        parameters.rows = rows.name
        parameters.durability = durability.rawValue
        bench.progress(parameters.label)
        let model = try shape.model(format, layers: threads)
        let repetition = bench.repetition
        try bench.directory.requireRoom(
            BenchmarkStore.diskByteCount(model, tokens: context + 2 * count * (repetition.runs ?? repetition.runsMax)))
        let store = try BenchmarkStore(
            directory: bench.directory.fresh("store"), model: model, durability: durability)
        let pattern = RowPattern(seed: bench.seed, dataType: rows)
        if context > 0 { try store.fill(upTo: context, pattern, bench.interruption) }
        let appends = Appends(store, count: count, pattern, threads: threads)
        let team = Team(threads: threads)
        let byteCount = store.byteCount(localTokens: count)
        let copy = MemoryCopy(byteCount: byteCount, threads: threads)
        let file = try PlainFile(bench.directory.fresh("file"), byteCount: byteCount * threads)
        let times = try repetition.measure(
            until: bench.interruption,
            [
                { try appends.append(team) }, { try appends.commit() }, { copy.copy(team) },
                { try file.write(isSynced: durability == .always) },
            ])
        try appends.check()
        let rates = times.map { $0.map { Double(byteCount * threads) / $0 / 1e9 } }
        let written = durability == .always ? "file write and fdatasync" : "file write"
        return Finding(
            parameters: parameters,
            figures: [
                Figure("append to panels", rates[0], unit: "GB/s").under(
                    "memcpy", rates[2], detail: "as many bytes of K and V, as many threads, between cold buffers"),
                Figure("commit", rates[1], unit: "GB/s")
                    .under("memcpy", rates[2])
                    .under(
                        written, rates[3], detail: "as many bytes over others in a plain file in the same directory"),
            ],
            time: Quantity(
                Samples(zip(times[0].values, times[1].values).map { ($0 + $1) * 1e3 }), unit: "ms"),
            accuracy: nil)
    }
}

/// Chunk after chunk at the end of a sequence, from rows that no cache holds.
private final class Appends {
    private let store: BenchmarkStore
    private let chunks: [KeyValueChunk]
    private let pattern: RowPattern
    private let count: Int
    private var length: Int
    private var run = 0

    init(_ store: BenchmarkStore, count: Int, _ pattern: RowPattern, threads: Int) {
        self.store = store
        self.count = count
        self.pattern = pattern
        length = store.length
        let layout = store.layout
        let chunkByteCount =
            count * layout.kvHeads * (layout.keyDim + layout.ownValueDim) * pattern.dataType.byteCount
        chunks = (0..<max(2, MemoryCopy.coldByteCount / chunkByteCount)).map { index in
            let chunk = KeyValueChunk(store.layout, tokens: count, dataType: pattern.dataType)
            chunk.fill(index * count..<(index + 1) * count, pattern)
            return chunk
        }
    }

    /// Each thread appends to its layer.
    func append(_ team: Team) throws {
        let outcome = Outcome()
        let (cache, sequence, length, count) = (store.cache, store.sequence, length, count)
        let chunks = chunks
        let run = run
        team.onEach { thread in
            do throws(ServiceError) {
                try cache.append(
                    sequence: sequence, layer: thread, position: Position(length),
                    rows: chunks[(run + thread) % chunks.count].rows(count), tokens: 0..<count)
            } catch {
                outcome.fail(error)
            }
        }
        try outcome.check()
        self.run += 1
        self.length += count
    }

    func commit() throws {
        try waitFor { store.cache.commit([(store.sequence, Position(length))], completion: $0) }
    }

    /// Whether what was appended last is what the store holds, byte by byte.
    /// - Throws: `.internal` when it is not.
    func check() throws {
        let reader = try store.context(length)
        let layout = reader.layout
        let row = UnsafeMutableRawPointer.allocate(byteCount: layout.rowByteCount, alignment: 64)
        defer { row.deallocate() }
        let index = (run - 1) % chunks.count
        for token in [0, count - 1] {
            let local = length - count + token
            layout.read(
                token: local % layout.blockTokens, of: reader.blocks[local / layout.blockTokens], into: row)
            let wanted = pattern.stored(position: index * count + token, as: layout)
            guard wanted.elementsEqual(UnsafeRawBufferPointer(start: row, count: layout.rowByteCount)) else {
                throw ServiceError(
                    .internal,
                    "Token \(local) reads back differently than it was appended: the cache is wrong. Report this as "
                        + "a bug.")
            }
        }
    }
}

private final class Outcome: Sendable {
    private let failure = Mutex<ServiceError?>(nil)

    func fail(_ error: ServiceError) { failure.withLock { $0 = $0 ?? error } }

    func check() throws(ServiceError) {
        if let error = failure.withLock({ $0 }) { throw error }
    }
}
