internal import DCPAttention
internal import DCPClient
internal import DCPCore
internal import DCPTestKit
internal import DCPWire

/// Decode steps one after the other, each at the end of the sequence, timed at the client and by the ranks.
struct StepRun {
    private let cluster: Cluster
    let local: LocalCluster
    private let context: StepContext
    private let model: ModelDescription
    private let count: Int
    private let queries: QueryRows
    private let queryDataType: DataType
    let threads: Int
    /// Sends a step of its own after each that is measured here.
    var twin: PythonTwin?
    private let bench: Bench

    init(
        _ cluster: Cluster, _ local: LocalCluster, _ context: StepContext, _ model: ModelDescription, count: Int,
        queries kind: QueryKind, threads: Int, _ bench: Bench
    ) throws(ServiceError) {
        self.cluster = cluster
        self.local = local
        self.context = context
        self.model = model
        self.count = count
        self.threads = threads
        self.bench = bench
        queries = bench.queries(model[0], tokens: count, kind)
        queryDataType = kind.dataType
    }

    /// What one step took.
    struct Timing {
        /// At the client, seconds.
        var latency: Double
        /// By rank.
        var ranks: [StepTimes]
        /// The round of the ping-pong after the step, and reading the shards, seconds.
        var pingPong: Double
        var reads: [Double]
        /// The twin's step, and what the ranks say of it.
        var python: (latency: Double, ranks: [StepTimes])?
    }

    func finding(_ parameters: Parameters) async throws -> Finding {
        let sequence = try await cluster.openSequence(StepContext.sequence, model: nil, create: false)
        let progress = try await cluster.status(of: sequence)
        guard progress.committedLength == context.tokens else {
            throw ServiceError(
                .internal,
                "The ranks came back with \(progress.committedLength) tokens instead of \(context.tokens); report this."
            )
        }
        let pingPong = try SocketPingPong(byteCounts: exchangeByteCounts)
        let shards = try Shards(local, context, model, threads: threads, bench)
        let rows = queryRows
        let first = try await step(sequence, position: context.tokens, rows)
        let accuracy = try check(first)
        var timings: [Timing] = []
        var position = context.tokens + count
        var before = try await cluster.rankStatuses()
        let start = ContinuousClock.now
        let repetition = Repetition(
            runs: bench.repetition.runs, seconds: 6, runsMin: 50, runsMax: 500)
        // One that does not count: the ranks' pages are mapped by then.
        while timings.isEmpty || repetition.wantsAnother(after: timings.count - 1, elapsed: elapsed(start)) {
            try bench.interruption.check()
            let clock = ContinuousClock.now
            _ = try await step(sequence, position: position, rows)
            let latency = elapsed(clock)
            position += count
            let ranks = try await newTimes(since: &before)
            var python: (latency: Double, ranks: [StepTimes])?
            if let twin {
                let latency = try await onOwnThread { try twin.step() }
                python = (latency, try await newTimes(since: &before))
            }
            let (round, reads) = try await onOwnThread {
                (try Stopwatch.seconds { try pingPong.round() }, shards.read())
            }
            timings.append(Timing(latency: latency, ranks: ranks, pingPong: round, reads: reads, python: python))
        }
        return Finding(
            parameters: parameters, figures: figures(Array(timings.dropFirst()), shards), accuracy: accuracy)
    }

    private func newTimes(since before: inout [RankStatus]) async throws -> [StepTimes] {
        let after = try await cluster.rankStatuses()
        defer { before = after }
        return zip(after, before).map { $0.stepTimes - $1.stepTimes }
    }

    private func elapsed(_ start: ContinuousClock.Instant) -> Double { (ContinuousClock.now - start).inSeconds }

    /// What a rank sends each other rank in a step: its queries, then the partials of the other's heads.
    var exchangeByteCounts: [Int] {
        let others = local.configuration.ranks - 1
        let heads = (model.queryHeads + others) / (others + 1)
        let rows = heads * count
        return [
            rows * model.keyDim * queryDataType.byteCount * others, rows * (model.valueDim + 1) * 4 * others,
        ].map { max($0, 1) }
    }

    // MARK: Steps

    private var queryRows: TokenRows {
        let values = RowOrder.tokenMajor(
            queries.values, tokens: count, heads: model.queryHeads, dim: model.keyDim)
        return TokenRows(
            dataType: queryDataType, tokens: count, heads: model.queryHeads, dim: model.keyDim,
            bytes: Rounding.bytes(values, as: queryDataType))
    }

    private func step(
        _ sequence: SequenceHandle, position: Int, _ queries: TokenRows
    ) async throws -> AttentionOutput {
        let positions = position..<position + count
        func rows(_ tensor: Int, _ dim: Int) -> TokenRows {
            TokenRows(
                dataType: context.pattern.dataType, tokens: count, heads: model.kvHeads, dim: dim,
                bytes: context.pattern.tokenMajor(tensor: tensor, heads: model.kvHeads, positions: positions, dim: dim))
        }
        return try await cluster.step(
            layer: 0, [sequence.entry(position: position, count: count)], model: sequence.model, queries: queries,
            keys: rows(0, model.keyDim), values: rows(1, model.valueDim))
    }

    /// The first step's answer against float64, over the context and the step's own tokens.
    private func check(_ answer: AttentionOutput) throws -> Accuracy {
        let shared = model.queryHeads / model.kvHeads
        var rows: [AccuracyCheck.Row] = []
        for part in context.heads {
            let positions = context.tokens..<context.tokens + count
            let keys = part.keys + context.pattern.numbers(tensor: 0, head: part.kvHead, positions, dim: model.keyDim)
            let values =
                part.values + context.pattern.numbers(tensor: 1, head: part.kvHead, positions, dim: model.valueDim)
            for head in Set([part.kvHead * shared, (part.kvHead + 1) * shared - 1]).sorted() {
                for token in Set([0, count - 1]).sorted() {
                    let start = (head * count + token) * model.keyDim
                    rows.append(
                        try AccuracyCheck.row(
                            head, token, model[0],
                            query: Array(queries.values[start..<start + model.keyDim]),
                            keys: keys, values: values, seen: 0..<context.tokens + token + 1))
                }
            }
        }
        return AccuracyCheck(rows).compare(
            output: { head, token, dim in
                answer.outputs[(token * model.queryHeads + head) * model.valueDim + dim]
            }, lse: { head, token in answer.lse[token * model.queryHeads + head] })
    }
}
