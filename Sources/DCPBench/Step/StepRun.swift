// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPClient
internal import DCPCore
internal import DCPLocalCluster
internal import DCPOracle
internal import DCPTransfer
internal import DCPWire

/// Decode steps one after the other, each at the end of the sequence, timed at the client and by the ranks.
struct StepRun {
    private let clusters: [Cluster]
    let local: LocalCluster
    private let context: StepContext
    private let model: ModelDescription
    let load: StepLoad
    private let count: Int
    private let queries: QueryRows
    private let queryDataType: DataType
    let threads: Int
    /// Sends its own step after each measured one.
    var twin: PythonTwin?
    /// A client beside those that are measured, for prefills.
    var besideCluster: Cluster?
    private let bench: Bench

    init(
        _ clusters: [Cluster], _ local: LocalCluster, _ context: StepContext, _ model: ModelDescription,
        _ load: StepLoad, count: Int, queries kind: QueryKind, threads: Int, _ bench: Bench
    ) throws(ServiceError) {
        self.clusters = clusters
        self.local = local
        self.context = context
        self.model = model
        self.load = load
        self.count = count
        self.threads = threads
        self.bench = bench
        queries = bench.queries(model[0], tokens: count, kind)
        queryDataType = kind.dataType
    }

    /// The durations of the steps of one token.
    struct Timing {
        /// At a client: seconds, the mean of the clients.
        var token: Double
        /// The same of one step.
        var latency: Double
        /// By rank, of one step.
        var ranks: [StepTimes]
        /// By rank, processor time of its event loop, of one step: seconds.
        var loops: [Double]
        /// The round of the ping-pong after it, and reading the shards, seconds.
        var pingPong: Double
        var reads: [Double]
        /// Steps of one fork each, as many as a step has sequences, one after the other: seconds.
        var alone: Double?
        /// The twin's step, and what the ranks say of it.
        var python: (latency: Double, ranks: [StepTimes])?
    }

    func finding(_ parameters: Parameters) async throws -> Finding {
        var clients = try await makeClients()
        var alone = load.comparesAlone ? try await makeLoneClients() : []
        let pingPong = try SocketPingPong(messages)
        let shards = try Shards(local, tokens: position, model, threads: threads, bench)
        let accuracy = try check(try await clients[0].token().answer)
        for index in alone.indices { _ = try await alone[index].token() }
        for index in clients.indices.dropFirst() { _ = try await clients[index].token() }
        guard let prefill = try await prefillLoad() else {
            let timings = try await timings(&clients, pingPong, shards, alone: &alone)
            return Finding(
                parameters: parameters, figures: figures(Array(timings.dropFirst()), shards), accuracy: accuracy)
        }
        let undisturbed = try await timings(&clients, pingPong, shards).dropFirst()
        async let prefills = prefill.run()
        let beside: [Timing]
        do {
            beside = try await timings(&clients, pingPong, shards)
        } catch {
            prefill.stop()
            throw error
        }
        prefill.stop()
        return Finding(
            parameters: parameters,
            figures: figures(
                Array(beside.dropFirst()), shards, alone: Array(undisturbed), prefills: try await prefills),
            accuracy: accuracy)
    }

    private func timings(
        _ clients: inout [StepClient], _ pingPong: SocketPingPong, _ shards: Shards
    ) async throws -> [Timing] {
        var none: [StepClient] = []
        return try await timings(&clients, pingPong, shards, alone: &none)
    }

    /// - Parameter alone: one for each fork of a step, whose steps of their own are measured in turn with it.
    private func timings(
        _ clients: inout [StepClient], _ pingPong: SocketPingPong, _ shards: Shards, alone: inout [StepClient]
    ) async throws -> [Timing] {
        var timings: [Timing] = []
        var before = try await clusters[0].rankStatuses()
        let clock = try LoopClock(processes: before.map(\.processID))
        let start = ContinuousClock.now
        let repetition = Repetition(
            runs: bench.repetition.runs, seconds: 6, runsMin: 50, runsMax: 500)
        // One that does not count: the ranks' pages are mapped by then.
        while timings.isEmpty || repetition.wantsAnother(after: timings.count - 1, elapsed: elapsed(start)) {
            try bench.interruption.check()
            let steps = load.clients * load.layers
            let loopsBefore = clock.read()
            let token = try await token(&clients)
            let loops = zip(clock.read(), loopsBefore).map { ($0 - $1) / Double(steps) }
            let ranks = try await newTimes(since: &before, steps: steps)
            var seconds = 0.0
            for index in alone.indices { seconds += try await alone[index].token().seconds }
            if !alone.isEmpty { before = try await clusters[0].rankStatuses() }
            var python: (latency: Double, ranks: [StepTimes])?
            if let twin {
                let latency = try await onOwnThread { try twin.step() }
                python = (latency, try await newTimes(since: &before, steps: 1))
            }
            let (round, reads) = try await onOwnThread {
                (try Stopwatch.seconds { try pingPong.round() }, shards.read())
            }
            timings.append(
                Timing(
                    token: token, latency: token / Double(load.layers), ranks: ranks, loops: loops, pingPong: round,
                    reads: reads, alone: alone.isEmpty ? nil : seconds / Double(load.layers), python: python))
        }
        return timings
    }

    /// A token of every client, all at once.
    /// - Returns: seconds, the mean.
    private func token(_ clients: inout [StepClient]) async throws -> Double {
        let made = try await withThrowingTaskGroup(of: (index: Int, client: StepClient, seconds: Double).self) {
            group in
            for (index, client) in clients.enumerated() {
                group.addTask(executorPreference: client.cluster.executor) {
                    var client = client
                    let seconds = try await client.token().seconds
                    return (index, client, seconds)
                }
            }
            return try await group.reduce(into: []) { $0.append($1) }
        }
        for one in made { clients[one.index] = one.client }
        return made.reduce(0) { $0 + $1.seconds } / Double(made.count)
    }

    /// Means of a rank over this many steps.
    private func newTimes(since before: inout [RankStatus], steps: Int) async throws -> [StepTimes] {
        let after = try await clusters[0].rankStatuses()
        defer { before = after }
        return zip(after, before).map { ($0.stepTimes - $1.stepTimes) / steps }
    }

    private func elapsed(_ start: ContinuousClock.Instant) -> Double { (ContinuousClock.now - start).inSeconds }

    /// The bytes that a step sends in both directions over a socket: the request and the result of a rank, then a
    /// partial each way for each other rank.
    var messages: [(there: Int, back: Int)] {
        let ranks = local.configuration.ranks
        let tokens = count * load.batch
        let heads = (model.queryHeads + ranks - 1) / ranks
        let queries = (load.queryMode == .gather ? heads : model.queryHeads) * model.keyDim * queryDataType.byteCount
        let rows = model.kvHeads * (model.keyDim + model[0].ownValueDim) * context.pattern.dataType.byteCount
        let result = heads * (model.valueDim + 1) * 4 * tokens
        let partials = heads * (model.valueDim * 4 + 8) * tokens * (ranks - 1)
        return [((queries + rows) * tokens, result)] + (ranks > 1 ? [(partials, partials)] : [])
    }

    // MARK: Clients

    /// The first sequence was filled; the others are forks of it.
    private func makeClients() async throws -> [StepClient] {
        let first = try await clusters[0].openSequence(StepContext.sequence, model: nil, create: false)
        let progress = try await clusters[0].status(of: first)
        guard progress.committedLength == context.tokens else {
            throw ServiceError(
                .internal,
                "The ranks came back with \(progress.committedLength) tokens instead of \(context.tokens); report this."
            )
        }
        let names = (0..<load.clients * load.batch).map {
            $0 == 0 && load.prefill == nil ? StepContext.sequence : "\(StepContext.sequence)-\($0)"
        }
        try await fork(first, as: names.filter { $0 != StepContext.sequence })
        var clients: [StepClient] = []
        for (index, cluster) in clusters.enumerated() {
            clients.append(try await client(cluster, Array(names[index * load.batch..<(index + 1) * load.batch])))
        }
        return clients
    }

    /// Further forks, each with its own steps.
    private func makeLoneClients() async throws -> [StepClient] {
        let names = (0..<load.batch).map { "\(StepContext.sequence)-alone-\($0)" }
        try await fork(try await clusters[0].openSequence(StepContext.sequence, model: nil, create: false), as: names)
        var clients: [StepClient] = []
        for name in names { clients.append(try await client(clusters[0], [name])) }
        return clients
    }

    private func fork(_ first: SequenceHandle, as names: [String]) async throws {
        for fork in try await clusters[0].fork(first, as: names.map { ($0, position) }) { _ = try fork.get() }
    }

    private func client(_ cluster: Cluster, _ names: [String]) async throws -> StepClient {
        let sequences = try await cluster.openSequences(names, model: nil, create: false).map { try $0.get() }
        return StepClient(
            cluster, sequences, load, position: position, queries: queryRows(of: names.count),
            keys: rows(0, model.keyDim, of: names.count), values: rows(1, model.valueDim, of: names.count))
    }

    /// Where the steps begin.
    private var position: Int {
        load.prefill == nil ? context.tokens : min(StepLoad.shortContext, context.tokens)
    }

    private func prefillLoad() async throws -> PrefillLoad? {
        guard let tokens = load.prefill, let cluster = besideCluster else { return nil }
        let sequence = try await cluster.openSequence(StepContext.sequence, model: nil, create: false)
        let positions = context.tokens..<context.tokens + tokens
        func rows(_ tensor: Int, _ dim: Int) -> TokenRows {
            TokenRows(
                dataType: context.pattern.dataType, tokens: tokens, heads: model.kvHeads, dim: dim,
                bytes: context.pattern.tokenMajor(
                    tensor: tensor, heads: model.kvHeads, positions: positions, dim: dim))
        }
        let values = RowOrder.tokenMajor(
            bench.queries(model[0], tokens: tokens, queryDataType == .float32 ? .float32 : .bfloat16).values,
            tokens: tokens, heads: model.queryHeads, dim: model.keyDim)
        return PrefillLoad(
            cluster, sequence, position: context.tokens,
            queries: TokenRows(
                dataType: queryDataType, tokens: tokens, heads: model.queryHeads, dim: model.keyDim,
                bytes: Rounding.bytes(values, as: queryDataType)),
            keys: rows(0, model.keyDim), values: rows(1, model.valueDim))
    }

    /// - Parameter batch: sequences of a step.
    private func queryRows(of batch: Int) -> TokenRows {
        let values = RowOrder.tokenMajor(
            queries.values, tokens: count, heads: model.queryHeads, dim: model.keyDim)
        return repeated(Rounding.bytes(values, as: queryDataType), queryDataType, model.queryHeads, model.keyDim, batch)
    }

    /// The same in each step: the values of a token do not affect its time.
    private func rows(_ tensor: Int, _ dim: Int, of batch: Int) -> TokenRows {
        let positions = position..<position + count
        return repeated(
            context.pattern.tokenMajor(tensor: tensor, heads: model.kvHeads, positions: positions, dim: dim),
            context.pattern.dataType, model.kvHeads, dim, batch)
    }

    /// For each sequence of a step.
    private func repeated(
        _ bytes: [UInt8], _ dataType: DataType, _ heads: Int, _ dim: Int, _ batch: Int
    ) -> TokenRows {
        TokenRows(
            dataType: dataType, tokens: count * batch, heads: heads, dim: dim,
            bytes: [[UInt8]](repeating: bytes, count: batch).flatMap { $0 })
    }

    /// Keys or values of the step's own tokens as the ranks keep them.
    private func newRows(_ tensor: Int, _ kvHead: Int, dim: Int) -> [Float] {
        let rows = context.pattern.numbers(tensor: tensor, head: kvHead, position..<position + count, dim: dim)
        return Rounding.kept(rows, dim: dim, areKeys: tensor == 0, model.kvFormat)
    }

    /// The first step's answer against float64, over the context and the step's own tokens.
    private func check(_ answer: AttentionOutput) throws -> Accuracy {
        let shared = model.queryHeads / model.kvHeads
        var rows: [AccuracyCheck.Row] = []
        for part in context.heads {
            let keys = part.keys.prefix(position * model.keyDim) + newRows(0, part.kvHead, dim: model.keyDim)
            let values = part.values.prefix(position * model.valueDim) + newRows(1, part.kvHead, dim: model.valueDim)
            for head in Set([part.kvHead * shared, (part.kvHead + 1) * shared - 1]).sorted() {
                for token in Set([0, count - 1]).sorted() {
                    let start = (head * count + token) * model.keyDim
                    rows.append(
                        try AccuracyCheck.row(
                            head, token, model[0],
                            query: Array(queries.values[start..<start + model.keyDim]),
                            keys: Array(keys), values: Array(values), seen: 0..<position + token + 1))
                }
            }
        }
        return AccuracyCheck(rows).compare(
            output: { head, token, dim in
                answer.outputs[(token * model.queryHeads + head) * model.valueDim + dim]
            }, lse: { head, token in answer.lse[token * model.queryHeads + head] })
    }
}
