internal import DCPAttention
internal import DCPClient
internal import DCPCore
internal import DCPTestKit
internal import DCPWire

/// Decode steps one after the other, each at the end of the sequence, timed at the client and by the ranks.
struct StepRun {
    private let cluster: Cluster
    private let local: LocalCluster
    private let context: StepContext
    private let model: ModelShape
    private let count: Int
    private let queries: QueryRows
    private let queryDataType: DataType
    private let threads: Int
    private let bench: Bench

    init(
        _ cluster: Cluster, _ local: LocalCluster, _ context: StepContext, _ model: ModelShape, count: Int,
        queries kind: QueryKind, threads: Int, _ bench: Bench
    ) {
        self.cluster = cluster
        self.local = local
        self.context = context
        self.model = model
        self.count = count
        self.threads = threads
        self.bench = bench
        queries = bench.queries(model, tokens: count, kind)
        queryDataType = kind == .bfloat16 ? .bfloat16 : .float32
    }

    /// What one step took.
    private struct Timing {
        /// At the client, seconds.
        var latency: Double
        /// By rank.
        var ranks: [StepTimes]
        /// The round of the ping-pong after the step, and reading the shards, seconds.
        var pingPong: Double
        var reads: [Double]
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
            let after = try await cluster.rankStatuses()
            let ranks = zip(after, before).map { $0.stepTimes - $1.stepTimes }
            before = after
            let (round, reads) = try await onOwnThread {
                (try Stopwatch.seconds { try pingPong.round() }, shards.read())
            }
            timings.append(Timing(latency: latency, ranks: ranks, pingPong: round, reads: reads))
        }
        return Finding(
            parameters: parameters, figures: figures(Array(timings.dropFirst()), shards), accuracy: accuracy)
    }

    private func elapsed(_ start: ContinuousClock.Instant) -> Double { (ContinuousClock.now - start).inSeconds }

    /// What a rank sends each other rank in a step: its queries, then the partials of the other's heads.
    private var exchangeByteCounts: [Int] {
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
                            head, token, model, query: Array(queries.values[start..<start + model.keyDim]),
                            keys: keys, values: values, seen: context.tokens + token + 1))
                }
            }
        }
        return AccuracyCheck(rows).compare(
            output: { head, token, dim in
                answer.outputs[(token * model.queryHeads + head) * model.valueDim + dim]
            }, lse: { head, token in answer.lse[token * model.queryHeads + head] })
    }

    // MARK: Figures

    private func figures(_ timings: [Timing], _ shards: Shards) -> [Figure] {
        func samples(_ value: (Timing) -> Double) -> Samples { Samples(timings.map { value($0) * 1e3 }) }
        func time(_ rank: Int, _ value: @escaping (StepTimes) -> UInt64) -> Samples {
            samples { Double(value($0.ranks[rank])) / 1e9 }
        }
        let latency = samples(\.latency)
        let (read, detail) = shards.fastest(timings.map(\.reads))
        let ranks = local.configuration.ranks
        let kernels = (0..<ranks).map { rank in time(rank) { $0.kernels / UInt64(threads) } }
        let slower = (0..<ranks).max { kernels[$0].median < kernels[$1].median } ?? 0
        var figures = [
            Figure("step at the client", latency, unit: "ms").under(
                "streaming read", read.map { $0 * 1e3 }, detail: detail)
        ]
        for rank in 0..<ranks {
            let name = "rank \(rank)" + (rank == slower && ranks > 1 ? " (slower)" : "")
            figures.append(
                Figure("\(name): kernels", kernels[rank], unit: "ms").of(
                    "step", latency, detail: "what the figure is a part of, at the client"))
            let parts: [(String, (StepTimes) -> UInt64)] = [
                ("total", \.total), ("new tokens", \.newTokens), ("context", \.context), ("query wait", \.queryWait),
                ("partial wait", \.partialWait), ("merge", \.merge), ("other", \.other),
            ]
            for (part, value) in parts {
                figures.append(Figure("\(name): \(part)", time(rank, value), unit: "ms").of("step", latency))
            }
        }
        if ranks > 1 {
            // Who is last to be ready waits for nobody's computation: its waits are the exchange alone.
            let exchange = samples { timing in
                let query = timing.ranks.map(\.queryWait).min() ?? 0
                let partial = timing.ranks.map(\.partialWait).min() ?? 0
                return Double(query + partial) / 1e9
            }
            figures.append(
                Figure("exchange, least waits", exchange, unit: "ms").under(
                    "ping-pong", samples(\.pingPong),
                    detail: "two round trips over a Unix socket: \(exchangeByteCounts[0]) bytes of queries, "
                        + "\(exchangeByteCounts[1]) of partials"))
        }
        return figures
    }
}

/// The ranks' shards in their files, read by as many threads as all ranks have.
private final class Shards: Sendable {
    private let pages: StreamingRead
    private let team: Team

    init(_ local: LocalCluster, _ context: StepContext, _ model: ModelShape, threads: Int, _ bench: Bench) throws {
        let partByteCount = 256 << 10
        let shape = try local.configuration.shape()
        let row = model.kvHeads * (model.keyDim + model.valueDim) * model.kvDataType.byteCount
        var files: [MappedFile] = []
        var parts: [UnsafeRawPointer] = []
        for rank in shape.allRanks {
            let file = try MappedFile(local.directory.data(of: .rank(rank)) + "/data.mdb")
            let tokens = shape.layout.localLength(ofRank: shape.contextRank(of: rank), length: context.tokens)
            parts += file.parts(byteCount: max(tokens * row, partByteCount), of: partByteCount)
            files.append(file)
        }
        team = Team(threads: threads * shape.ranks)
        pages = StreamingRead(parts, payloadByteCount: partByteCount, owner: Owners(files))
        try pages.chooseWays(team, bench.interruption)
    }

    /// - Returns: seconds, for each way.
    func read() -> [Double] { pages.bodies(team).map { Stopwatch.seconds($0) } }

    /// The faster way's durations, seconds, of what `read` returned each time.
    func fastest(_ times: [[Double]]) -> (seconds: Samples, detail: String) {
        let ways = times[0].indices.map { way in Samples(times.map { $0[way] }) }
        let (seconds, way) = pages.fastest(ways[...])
        return (seconds, "the ranks' data files, \(pages.byteCount) bytes, by \(team.threads) threads, \(way)")
    }

    private final class Owners: Sendable {
        let files: [MappedFile]
        init(_ files: [MappedFile]) { self.files = files }
    }
}
