// SPDX-License-Identifier: Apache-2.0

internal import DCPClient
public import DCPCore
internal import DCPLocalCluster
internal import DCPTransport
internal import DCPWire

/// Whole decode steps through a local cluster of real daemons: what `step` measures.
public struct StepBenchmark: Sendable {
    public var shapes: [AttentionShape]
    public var formats: [CacheFormat]
    public var contexts: [Int]
    /// Compute threads of each rank.
    public var threads: [Int]
    public var ranks: Int
    /// Tokens of a step.
    public var count: Int
    public var queries: QueryKind
    public var exchange: Exchange
    public var load: StepLoad
    /// Whether scores are as peaked as a trained model's.
    public var isPeaked: Bool
    /// An interpreter whose client is measured in turn with this one.
    public var python: String?

    public init(
        shapes: [AttentionShape], formats: [CacheFormat], contexts: [Int], threads: [Int], ranks: Int, count: Int,
        queries: QueryKind, exchange: Exchange, load: StepLoad = StepLoad(), isPeaked: Bool = false,
        python: String? = nil
    ) {
        self.shapes = shapes
        self.formats = formats
        self.contexts = contexts
        self.threads = threads
        self.ranks = ranks
        self.count = count
        self.queries = queries
        self.exchange = exchange
        self.load = load
        self.isPeaked = isPeaked
        self.python = python
    }

    /// Costs that these figures do not include.
    public static let notMeasured = [
        "a network: ranks and client are processes of this machine, which share its memory and cores",
        "prefill: the ranks' stores are filled before, as their own code would",
        "other steps in flight of one client: a step is sent when the one before is answered",
        "contexts of their own for many sequences: they are forks of one, whose blocks they read",
        "page faults and disk reads, since all pages are in memory and mapped before the first step that counts",
    ]

    /// Measures all combinations, each with its own cluster.
    public func run(_ bench: Bench) async throws -> [Finding] {
        var bench = bench
        if isPeaked { bench.scoreDeviation = Bench.peakedDeviation }
        try AttentionShape.check(shapes, formats)
        var findings: [Finding] = []
        for format in formats {
            for shape in shapes {
                for context in contexts {
                    for threads in threads {
                        findings.append(try await measure(shape, format, context, threads, bench))
                    }
                }
            }
        }
        return findings
    }

    private func measure(
        _ shape: AttentionShape, _ format: CacheFormat, _ context: Int, _ threads: Int, _ bench: Bench
    ) async throws -> Finding {
        var parameters = Parameters("step", shape, format, context: context, count: count, threads: threads)
        parameters.ranks = ranks
        parameters.queries = queries.rawValue
        parameters.isPeaked = isPeaked ? true : nil
        parameters.load = load.label.isEmpty ? nil : load.label
        let model = try shape.model(format, layers: load.layers)
        try bench.directory.requireRoom(BenchmarkStore.diskByteCount(model, tokens: context))
        bench.progress("starting a coordinator and \(ranks) ranks")
        let cluster = try StepCluster.start(
            ranks: ranks, threads: threads, exchange, load, bench)
        do {
            let finding = try await measure(parameters, model, context, cluster, bench)
            await cluster.local.stop(deadline: .seconds(20))
            return finding
        } catch {
            await cluster.local.stop(deadline: .seconds(20))
            throw error
        }
    }

    private func measure(
        _ parameters: Parameters, _ model: ModelDescription, _ context: Int, _ cluster: StepCluster, _ bench: Bench
    ) async throws -> Finding {
        let filled = try await StepContext.fill(cluster, model, tokens: context, bench)
        bench.progress(parameters.label)
        var clients: [Cluster] = []
        func close() async { for client in clients { await client.close() } }
        do {
            while clients.count < load.clients { clients.append(try await cluster.connect()) }
            var run = try StepRun(
                clients, cluster.local, filled, model, load, count: count, queries: queries,
                threads: parameters.threads, bench)
            if load.prefill != nil {
                let beside = try await cluster.connect()
                clients.append(beside)
                run.besideCluster = beside
            }
            if let python { run.twin = try await twin(python, clients[0], cluster.local, context) }
            let finding = try await run.finding(parameters)
            await close()
            return finding
        } catch {
            await close()
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
