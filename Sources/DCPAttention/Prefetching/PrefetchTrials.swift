// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import Glibc

/// How fast each way to prefetch is on this machine, measured with its kernels.
///
/// Caches differ between processors in how many outstanding lines they allow, and nothing reports that number. On Zen 4
/// kernels that prefetch into the first-level cache read 0.55 as fast as with the second level; on Zen 5 it is the
/// reverse.
public struct PrefetchTrials: Hashable, Sendable {
    /// One kind of work.
    public struct Trial: Hashable, Sendable, Codable {
        public var format: CacheFormat
        /// Rows that share a KV head.
        public var rows: Int
        /// The fastest.
        public var chosen: Prefetch
        /// Bytes of keys and values a second, with each way.
        public var gigabytesPerSecond: [Prefetch: Double]

        public init(format: CacheFormat, rows: Int, chosen: Prefetch, gigabytesPerSecond: [Prefetch: Double]) {
            self.format = format
            self.rows = rows
            self.chosen = chosen
            self.gigabytesPerSecond = gigabytesPerSecond
        }

        /// `bf16, 4 rows`
        public var name: String { "\(format.name), \(rows) rows" }

        /// The ways, fastest first: `second:32 24.9, first 17.6, none 14.2 GB/s`
        public var figures: String {
            gigabytesPerSecond.sorted { $0.value > $1.value }
                .map { "\($0.key) \(($0.value * 10).rounded() / 10)" }.joined(separator: ", ") + " GB/s"
        }
    }

    public private(set) var trials: [Trial]

    /// Whether all kinds of work were tried before the time was up.
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

    /// Runs them on this thread, for at most 0.3 s of processor time. Blocks the thread, and takes 64 MiB of memory. Trials that
    /// do not fit into the time are left out; at least one is run.
    ///
    /// Each way has three rounds, alternating with the others, and the smallest median wins: other use of the machine's
    /// memory affects all of them. Other use of its processors affects none: time is the thread's processor time.
    /// - Parameter known: the trials of earlier runs, which are not repeated.
    public static func run(
        _ kernels: AttentionKernels = .chosen, after known: PrefetchTrials = PrefetchTrials()
    ) throws(ServiceError) -> PrefetchTrials {
        var trials = known
        guard areUseful(kernels), !known.areComplete else { return trials }
        let context = TrialContext()
        let (start, end) = (ThreadTime.now, ContinuousClock.now + wallTimeMax)
        for work in PrefetchTable.Work.tried where !known.has(work) {
            let begun = ThreadTime.now
            trials.trials.append(try context.compare(work, kernels))
            // The next one is expected to take as long.
            let now = ThreadTime.now
            guard now - start + (now - begun) <= secondsMax, ContinuousClock.now < end else { break }
        }
        return trials
    }

    /// Runs all of them, however long it takes: about a second on an idle machine.
    public static func runAll(_ kernels: AttentionKernels = .chosen) throws(ServiceError) -> PrefetchTrials {
        var trials = try run(kernels)
        while areUseful(kernels), !trials.areComplete { trials = try run(kernels, after: trials) }
        return trials
    }

    private static let secondsMax = 0.3
    /// A start waits no longer than this, however busy the processors are.
    private static let wallTimeMax = Duration.seconds(2)
    fileprivate static let rounds = 3
}

/// Processor time of the calling thread, in seconds.
private enum ThreadTime {
    static var now: Double {
        var time = timespec()
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
    }
}

/// Memory that kernels read as if it were a store: larger than the caches, with its blocks in random order.
private final class TrialContext {
    private static let byteCount = 64 << 20
    private static let kvHeads = 8
    private static let dim = 128
    private static let blockTokens = 64

    private let memory: UnsafeMutableRawPointer

    init() {
        // In huge pages. With pages of 4 KiB, which are scattered once a machine has been up for a while, page walks
        // took most of the time, and all ways were as fast as each other (12 to 14 GB/s, where a store's file gave 23
        // with one and 12 with the others). Each byte is written before the measurement, as a small finite number in
        // every format.
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
        // Half as many bytes for formats of one byte, whose kernels compute as much for half the bytes.
        let count = Self.byteCount / (layout.format.elementByteCount == 1 ? 2 : 1) / layout.payloadByteCount
        // An odd stride visits each of a power of two of blocks once, each far from the one before.
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
        /// The way that a word stands for.
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
