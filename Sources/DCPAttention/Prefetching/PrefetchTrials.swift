// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import Glibc

/// What each way to prefetch gives on this machine: found by running its kernels.
///
/// Caches differ between processors in how many lines they wait for at a time, which nothing tells: on Zen 4 kernels that
/// prefetch into the first-level cache read 0.55 of what they read with the second, and Zen 5 has it the other way round.
public struct PrefetchTrials: Hashable, Sendable {
    /// One kind of work.
    public struct Trial: Hashable, Sendable, Codable {
        public var format: CacheFormat
        /// That share a KV head.
        public var rows: Int
        /// The fastest.
        public var chosen: Prefetch
        /// Of keys and values, with each.
        public var gigabytesPerSecond: [Prefetch: Double]

        public init(format: CacheFormat, rows: Int, chosen: Prefetch, gigabytesPerSecond: [Prefetch: Double]) {
            self.format = format
            self.rows = rows
            self.chosen = chosen
            self.gigabytesPerSecond = gigabytesPerSecond
        }

        /// `bf16, 4 rows`
        public var name: String { "\(format.name), \(rows) rows" }

        /// The ways by how they did: `second:32 24.9, first 17.6, none 14.2 GB/s`
        public var figures: String {
            gigabytesPerSecond.sorted { $0.value > $1.value }
                .map { "\($0.key) \(($0.value * 10).rounded() / 10)" }.joined(separator: ", ") + " GB/s"
        }
    }

    public private(set) var trials: [Trial]

    /// Whether all kinds of work were tried: time was not up before.
    public var areComplete: Bool { PrefetchTable.Work.tried.allSatisfy(has) }

    private func has(_ work: PrefetchTable.Work) -> Bool {
        trials.contains { $0.format == work.format && $0.rows == work.rows }
    }

    public init(_ trials: [Trial] = []) { self.trials = trials }

    public var table: PrefetchTable {
        var table = PrefetchTable()
        for trial in trials { table[PrefetchTable.Work(trial.format, rows: trial.rows)] = trial.chosen }
        return table
    }

    /// Whether a machine's kernels prefetch at all: those in portable C do not.
    public static func areUseful(_ kernels: AttentionKernels = .chosen) -> Bool { kernels.name != "scalar" }

    /// Runs them on this thread, for about 0.5 s of its processor's time. Blocks, with 64 MiB of memory. What that was too
    /// short for is left out; at least one is run.
    ///
    /// Each way has three rounds, in turn with the others, and the smallest median wins: what else uses the machine's memory
    /// meanwhile concerns all of them. Who else has its processors does not: time is the thread's own.
    /// - Parameter known: of earlier runs: only what they lack is run.
    public static func run(
        _ kernels: AttentionKernels = .chosen, after known: PrefetchTrials = PrefetchTrials()
    ) throws(ServiceError) -> PrefetchTrials {
        var trials = known
        guard areUseful(kernels), !known.areComplete else { return trials }
        let context = TrialContext()
        let (start, end) = (ThreadTime.now, ContinuousClock.now + wallTimeMax)
        for work in PrefetchTable.Work.tried where !known.has(work) {
            trials.trials.append(try context.compare(work, kernels))
            guard ThreadTime.now - start < secondsMax && ContinuousClock.now < end else { break }
        }
        return trials
    }

    /// Runs all of them, however long it takes: about a second on an idle machine.
    public static func runAll(_ kernels: AttentionKernels = .chosen) throws(ServiceError) -> PrefetchTrials {
        var trials = try run(kernels)
        while areUseful(kernels), !trials.areComplete { trials = try run(kernels, after: trials) }
        return trials
    }

    private static let secondsMax = 0.5
    /// A start does not wait longer, however many others want the processors.
    private static let wallTimeMax = Duration.seconds(2)
    fileprivate static let rounds = 3
}

/// Seconds that the calling thread has had a processor.
private enum ThreadTime {
    static var now: Double {
        var time = timespec()
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
    }
}

/// Memory that kernels read as if it were a store: more than caches hold, its blocks in any order.
private final class TrialContext {
    private static let byteCount = 64 << 20
    private static let kvHeads = 8
    private static let dim = 128
    private static let blockTokens = 64

    private let memory: UnsafeMutableRawPointer

    init() {
        // In large pages. In those of 4 KiB, which lie anywhere once a machine has been up for a while, walks through page
        // tables took most of the time, and each way was as fast as the others (12 to 14 GB/s, where a store's file read 23
        // with one of them and 12 with the others). The pages are there before they are timed: each byte is written, and is a
        // small finite number in every format.
        memory = .allocate(byteCount: Self.byteCount, alignment: 2 << 20)
        _ = madvise(memory, Self.byteCount, MADV_HUGEPAGE)
        memory.initializeMemory(as: UInt8.self, repeating: 0x3c, count: Self.byteCount)
    }

    deinit { memory.deallocate() }

    func compare(_ work: PrefetchTable.Work, _ kernels: AttentionKernels) throws(ServiceError) -> PrefetchTrials.Trial {
        let attention = try LayerAttention(
            queryHeads: Self.kvHeads * work.rows, kvHeads: Self.kvHeads, keyDim: Self.dim, values: .own(Self.dim),
            scale: LayerAttention.defaultScale(keyDim: Self.dim))
        let blocks = blocks(PanelLayout(attention, work.format, kvHeads: Self.kvHeads, blockTokens: Self.blockTokens))
        let queries = QueryRows(
            heads: 0..<attention.queryHeads, tokens: 1, keyDim: Self.dim,
            values: [Float](repeating: 0.5, count: attention.queryHeads * Self.dim))
        var seconds: [Prefetch: [Double]] = [:]
        for _ in 0..<PrefetchTrials.rounds {
            for prefetch in Prefetch.candidates {
                seconds[prefetch, default: []].append(time(attention, queries, blocks, kernels, prefetch))
            }
        }
        let medians = seconds.mapValues { $0.sorted()[PrefetchTrials.rounds / 2] }
        let fastest = Prefetch.candidates.min { medians[$0]! < medians[$1]! }!
        return PrefetchTrials.Trial(
            format: work.format, rows: work.rows, chosen: fastest,
            gigabytesPerSecond: medians.mapValues {
                Double(blocks.blocks.count * blocks.layout.payloadByteCount) / $0 / 1e9
            })
    }

    /// Seconds of one pass over the context.
    private func time(
        _ attention: LayerAttention, _ queries: QueryRows, _ blocks: KVBlocks, _ kernels: AttentionKernels,
        _ prefetch: Prefetch
    ) -> Double {
        let work = AttentionWork(
            attention: attention,
            partition: HeadPartition(
                queryHeads: attention.queryHeads, kvHeads: attention.kvHeads, contextRanks: 1),
            heads: queries.heads, queries: queries, tokens: 0..<1, visible: .all(count: 1, of: blocks.tokens),
            over: blocks, kernels: kernels, prefetch: PrefetchTable(prefetch))
        let start = ThreadTime.now
        for piece in 0..<work.pieceCount { work.run(piece: piece) }
        return ThreadTime.now - start
    }

    private func blocks(_ layout: PanelLayout) -> KVBlocks {
        // Of formats of one byte, whose kernels have as much to compute for half the bytes, half as much.
        let count = Self.byteCount / (layout.format.elementByteCount == 1 ? 2 : 1) / layout.payloadByteCount
        // A step that has no divisor in common with a power of two comes to each block once, far from the one before.
        let step = 0x2545
        let order = (0..<count).map { UnsafeRawPointer(memory) + $0 &* step % count * layout.payloadByteCount }
        return KVBlocks(layout: layout, blocks: order, tokens: count * layout.blockTokens)
    }
}

extension PrefetchTrials.Trial {
    private enum CodingKeys: String, CodingKey {
        case rows, chosen
        case kvFormat = "kv_format"
        case gigabytesPerSecond = "gigabytes_per_second"
    }

    public func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(format.name, forKey: .kvFormat)
        try container.encode(rows, forKey: .rows)
        try container.encode("\(chosen)", forKey: .chosen)
        let figures = Dictionary(uniqueKeysWithValues: gigabytesPerSecond.map { ("\($0)", $1) })
        try container.encode(figures, forKey: .gigabytesPerSecond)
    }

    public init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        /// What a word stands for.
        func known<Value>(_ value: Value?, _ key: CodingKeys) throws -> Value {
            guard let value else {
                throw DecodingError.dataCorruptedError(
                    forKey: key, in: container, debugDescription: "There is no such \(key.stringValue).")
            }
            return value
        }
        let name = try container.decode(String.self, forKey: .kvFormat)
        let figures = try container.decode([String: Double].self, forKey: .gigabytesPerSecond).map { prefetch, value in
            (try known(Prefetch(prefetch), .gigabytesPerSecond), value)
        }
        self.init(
            format: try known(CacheFormat.allCases.first { $0.name == name }, .kvFormat),
            rows: try container.decode(Int.self, forKey: .rows),
            chosen: try known(Prefetch(try container.decode(String.self, forKey: .chosen)), .chosen),
            gigabytesPerSecond: Dictionary(figures) { first, _ in first })
    }
}
