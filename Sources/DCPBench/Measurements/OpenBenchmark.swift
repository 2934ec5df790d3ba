internal import DCPAttention
internal import DCPCache
public import DCPCore
internal import DCPStore
internal import Glibc

/// A rank's start: from a closed store to one that serves: what `cache open` measures.
public struct OpenBenchmark: Sendable {
    public var shapes: [AttentionShape]
    public var dataTypes: [DataType]
    public var contexts: [Int]

    public init(shapes: [AttentionShape], dataTypes: [DataType], contexts: [Int]) {
        self.shapes = shapes
        self.dataTypes = dataTypes
        self.contexts = contexts
    }

    /// What these figures do not tell.
    public static let notMeasured = [
        "starting the process, registering and joining, which do not depend on the store",
        "the first use of a block, which checks its checksum",
    ]

    /// Measures all combinations. Blocks; a thread of its own calls it.
    public func run(_ bench: Bench) throws -> [Finding] {
        var results: [Finding] = []
        for dataType in dataTypes {
            for shape in shapes {
                for context in contexts { results.append(try measure(shape, dataType, context, bench)) }
            }
        }
        return results
    }

    private func measure(
        _ shape: AttentionShape, _ dataType: DataType, _ context: Int, _ bench: Bench
    ) throws -> Finding {
        let parameters = Parameters("open", shape, dataType, context: context, count: 1, threads: 1)
        bench.progress(parameters.label)
        let model = try shape.model(dataType, layers: 1)
        try bench.directory.requireRoom(BenchmarkStore.diskByteCount(model, tokens: context))
        let directory = bench.directory.fresh("store")
        let cluster: ClusterShape
        let path: String
        do {
            let store = try BenchmarkStore(directory: directory, model: model, isTemporary: false)
            try store.fill(upTo: context, RowPattern(seed: bench.seed, dataType: dataType), bench.interruption)
            (cluster, path) = (store.cache.cluster, store.dataPath)
        }
        func open(_ file: String) throws -> Double {
            try Self.evict(file)
            return try Stopwatch.seconds {
                let cache = try ShardCache.open(directory: directory, rank: RankIndex(0), cluster: cluster)
                defer { cache.close() }
                guard cache.state(of: SequenceID(1))?.committedLength == context else {
                    throw ServiceError(
                        .internal, "A store of \(context) tokens opens with others. Report this as a bug.")
                }
            }
        }
        var faults: [Double] = []
        let times = try bench.repetition.measure(
            until: bench.interruption,
            timed: [
                {
                    let before = Self.bytesRead
                    let seconds = try open(path)
                    faults.append(Double(Self.bytesRead - before) / 1048576)
                    return seconds
                }
            ])
        return Finding(
            parameters: parameters,
            figures: [
                Figure("open, nothing in memory", times[0].map { $0 * 1e3 }, unit: "ms"),
                Figure("read from the disk", Samples(Array(faults.dropFirst())), unit: "MiB").of(
                    "K and V", Samples([Double(context * PanelLayout(model, in: cluster).rowByteCount) / 1048576])),
            ])
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
