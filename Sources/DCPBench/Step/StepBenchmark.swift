internal import DCPClient
public import DCPCore
internal import DCPTransport
internal import DCPWire

/// Whole decode steps through a local cluster of real daemons: what `step` measures.
public struct StepBenchmark: Sendable {
    public var shapes: [AttentionShape]
    public var dataTypes: [DataType]
    public var contexts: [Int]
    /// Compute threads of each rank.
    public var threads: [Int]
    public var ranks: Int
    /// Tokens of a step.
    public var count: Int
    public var queries: QueryKind
    public var exchange: Exchange
    /// An interpreter whose client is measured in turn with this one.
    public var python: String?

    public init(
        shapes: [AttentionShape], dataTypes: [DataType], contexts: [Int], threads: [Int], ranks: Int, count: Int,
        queries: QueryKind, exchange: Exchange, python: String? = nil
    ) {
        self.shapes = shapes
        self.dataTypes = dataTypes
        self.contexts = contexts
        self.threads = threads
        self.ranks = ranks
        self.count = count
        self.queries = queries
        self.exchange = exchange
        self.python = python
    }

    /// What these figures do not tell.
    public static let notMeasured = [
        "a network: ranks and client are processes of this machine, which share its memory and cores",
        "prefill: the ranks' stores are filled before, as their own code would",
        "commits, and other steps in flight: one step of one layer is sent when the one before is answered",
        "page faults and disk reads, since all pages are in memory and mapped before the first step that counts",
    ]

    /// Measures all combinations, each with a cluster of its own.
    public func run(_ bench: Bench) async throws -> [Finding] {
        var findings: [Finding] = []
        for dataType in dataTypes {
            for shape in shapes {
                for context in contexts {
                    for threads in threads {
                        findings.append(try await measure(shape, dataType, context, threads, bench))
                    }
                }
            }
        }
        return findings
    }

    private func measure(
        _ shape: AttentionShape, _ dataType: DataType, _ context: Int, _ threads: Int, _ bench: Bench
    ) async throws -> Finding {
        var parameters = Parameters("step", shape, dataType, context: context, count: count, threads: threads)
        parameters.ranks = ranks
        parameters.queries = queries.rawValue
        let model = try shape.model(dataType)
        try bench.directory.requireRoom(BenchmarkStore.diskByteCount(model, tokens: context))
        var options = LocalClusterOptions()
        options.ranks = ranks
        options.threadsPerRank = threads
        options.exchange = exchange
        bench.progress("starting a coordinator and \(ranks) ranks")
        let local = try LocalCluster.start(
            in: LocalClusterDirectory(path: bench.directory.fresh("c")), options: options)
        do {
            let finding = try await measure(parameters, model, context, local, bench)
            await local.stop(deadline: .seconds(20))
            return finding
        } catch {
            await local.stop(deadline: .seconds(20))
            throw error
        }
    }

    private func measure(
        _ parameters: Parameters, _ model: ModelDescription, _ context: Int, _ local: LocalCluster, _ bench: Bench
    ) async throws -> Finding {
        let filled = try await StepContext.fill(local, model, tokens: context, bench)
        bench.progress(parameters.label)
        let cluster = try await StepContext.connect(local)
        do {
            var run = try StepRun(
                cluster, local, filled, model, count: count, queries: queries, threads: parameters.threads, bench)
            if let python { run.twin = try await twin(python, cluster, local, context) }
            let finding = try await run.finding(parameters)
            await cluster.close()
            return finding
        } catch {
            await cluster.close()
            throw error
        }
    }

    private func twin(
        _ python: String, _ cluster: Cluster, _ local: LocalCluster, _ context: Int
    ) async throws -> PythonTwin {
        try await cluster.fork(StepContext.sequence, as: PythonTwin.sequence, length: context)
        let (count, queries) = (count, queries)
        return try await onOwnThread { try PythonTwin(python, local, count: count, queries: queries) }
    }
}
