// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCache
internal import DCPClient
public import DCPCore
internal import DCPLocalCluster
internal import DCPStore
internal import DCPWire
internal import Glibc

/// A rank's start, from a closed store to one that serves, and from a killed process to a cluster that is ready: what
/// `cache open` measures.
public struct OpenBenchmark: Sendable {
    public var shapes: [AttentionShape]
    public var formats: [CacheFormat]
    public var contexts: [Int]
    /// Ranks of the cluster. One of them is killed and restarted.
    public var ranks: Int

    public init(shapes: [AttentionShape], formats: [CacheFormat], contexts: [Int], ranks: Int) {
        self.shapes = shapes
        self.formats = formats
        self.contexts = contexts
        self.ranks = ranks
    }

    /// Costs that these figures do not include.
    public static let notMeasured = [
        "noticing that a rank has died: it is started when the coordinator knows",
        "the first use of a block, which checks its checksum",
    ]

    /// Measures all combinations, each with its own cluster.
    public func run(_ bench: Bench) async throws -> [Finding] {
        try AttentionShape.check(shapes, formats)
        var results: [Finding] = []
        for format in formats {
            for shape in shapes {
                for context in contexts { results.append(try await measure(shape, format, context, bench)) }
            }
        }
        return results
    }

    private func measure(
        _ shape: AttentionShape, _ format: CacheFormat, _ context: Int, _ bench: Bench
    ) async throws -> Finding {
        var parameters = Parameters("open", shape, format, context: context, count: 1, threads: 1)
        parameters.ranks = ranks
        let model = try shape.model(format, layers: 1)
        try bench.directory.requireRoom(BenchmarkStore.diskByteCount(model, tokens: context))
        var options = LocalClusterOptions()
        options.ranks = ranks
        options.threadsPerRank = 1
        let local = try LocalCluster.start(
            in: LocalClusterDirectory(path: bench.directory.fresh("c")), options: options)
        do {
            let pattern = RowPattern(seed: bench.seed, dataType: format.rowType)
            try await StepContext.fillStores(local, model, tokens: context, pattern, bench)
            bench.progress(parameters.label)
            let finding = try await measure(parameters, model, context, local, bench)
            await local.stop(deadline: .seconds(20))
            return finding
        } catch {
            await local.stop(deadline: .seconds(20))
            throw error
        }
    }

    /// The durations of one kill and restart.
    private struct Timing {
        /// Seconds.
        var open: Double
        var readByteCount: Int
        /// From before the process is made, seconds.
        var start: Double
    }

    private func measure(
        _ parameters: Parameters, _ model: ModelDescription, _ context: Int, _ local: LocalCluster, _ bench: Bench
    ) async throws -> Finding {
        let rank = RankIndex(0)
        let shape = try local.configuration.shape()
        let directory = local.directory.data(of: .rank(rank))
        _ = try local.startMissing()
        let cluster = try await StepContext.connect(local)
        var timings: [Timing] = []
        do {
            let began = ContinuousClock.now
            // One that does not count: executables and libraries are in memory by then, as at any restart.
            while timings.isEmpty
                || bench.repetition.wantsAnother(
                    after: timings.count - 1, elapsed: (ContinuousClock.now - began).inSeconds)
            {
                try bench.interruption.check()
                try await local.kill(.rank(rank))
                // The coordinator sees the connection end; nothing but its answer tells when.
                while try await cluster.topology().phase == .ready { try bench.interruption.check() }
                let (open, readByteCount) = try await onOwnThread {
                    try Self.open(directory, rank, shape, context)
                }
                try Self.evict(directory + "/data.mdb")
                let clock = ContinuousClock.now
                try local.start(.rank(rank))
                _ = try await cluster.readyTopology(wait: .seconds(60))
                let start = (ContinuousClock.now - clock).inSeconds
                timings.append(Timing(open: open, readByteCount: readByteCount, start: start))
            }
            let sequence = try await cluster.openSequence(StepContext.sequence, model: nil)
            let length = try await cluster.status(of: sequence).committedLength
            guard length == context else {
                throw ServiceError(
                    .internal,
                    "The cluster came back with \(length) tokens instead of \(context). Report this as a bug.")
            }
            await cluster.close()
        } catch {
            await cluster.close()
            throw error
        }
        return Finding(parameters: parameters, figures: figures(Array(timings.dropFirst()), model, shape, context))
    }

    private func figures(
        _ timings: [Timing], _ model: ModelDescription, _ shape: ClusterShape, _ context: Int
    ) -> [Figure] {
        let open = Samples(timings.map { $0.open * 1e3 })
        let held = Double(shape.layout.localLength(ofRank: 0, length: context))
        let layout = PanelLayout(model[0], model.kvFormat, in: shape)
        return [
            Figure("open, nothing in memory", open, unit: "ms"),
            Figure("read from the disk", Samples(timings.map { Double($0.readByteCount) / 1048576 }), unit: "MiB").of(
                "K and V", Samples([held * Double(layout.keptByteCount) / 1048576])),
            Figure("start to ready", Samples(timings.map { $0.start * 1e3 }), unit: "ms").under("open", open),
        ]
    }

    /// Opens the store of a rank that does not run, as it will. Seconds, and bytes read from the disk.
    private static func open(
        _ directory: String, _ rank: RankIndex, _ shape: ClusterShape, _ context: Int
    ) throws -> (Double, Int) {
        try evict(directory + "/data.mdb")
        let before = bytesRead
        let seconds = try Stopwatch.seconds {
            let cache = try ShardCache.open(directory: directory, rank: rank, cluster: shape)
            defer { cache.close() }
            guard cache.sequences.map(\.committedLength) == [Position(context)] else {
                throw ServiceError(
                    .internal, "A store of \(context) tokens opens with others. Report this as a bug.")
            }
        }
        return (seconds, bytesRead - before)
    }

    /// The kernel forgets what it holds of a file: the next reads come from the disk.
    private static func evict(_ path: String) throws(ServiceError) {
        let descriptor = Glibc.open(path, O_RDONLY)
        guard descriptor >= 0 else {
            throw ServiceError(.internal, "\(path) cannot be opened: \(String(cString: strerror(errno))).")
        }
        defer { close(descriptor) }
        fsync(descriptor)
        posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED)
    }

    /// Bytes that this process has had read from disks: getrusage counts blocks of 512.
    private static var bytesRead: Int {
        var usage = rusage()
        getrusage(Int32(RUSAGE_SELF.rawValue), &usage)
        return Int(usage.ru_inblock) * 512
    }
}
