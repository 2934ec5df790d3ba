internal import DCPAttention
internal import DCPCache
internal import DCPConsole
public import DCPCore
internal import DCPTestKit

/// Attention over a context in the mapped pages of a real store: what `kernels decode` and `kernels prefill` measure.
public struct KernelBenchmark: Sendable {
    public enum Kind: Sendable {
        /// Few query tokens: bytes of K and V a second, beside a streaming read of the same pages.
        case decode
        /// Many: operations a second, beside what arithmetic allows.
        case prefill
    }

    public var kind: Kind
    public var shapes: [AttentionShape]
    public var dataTypes: [DataType]
    public var contexts: [Int]
    public var threads: [Int]
    /// Query tokens.
    public var count: Int
    public var queries: QueryKind
    /// Prefill: also the step's own tokens, which attend to each other.
    public var withNewTokens: Bool

    public init(
        _ kind: Kind, shapes: [AttentionShape], dataTypes: [DataType], contexts: [Int], threads: [Int], count: Int,
        queries: QueryKind = .bfloat16, withNewTokens: Bool = false
    ) {
        self.kind = kind
        self.shapes = shapes
        self.dataTypes = dataTypes
        self.contexts = contexts
        self.threads = threads
        self.count = count
        self.queries = queries
        self.withNewTokens = withNewTokens
    }

    /// What these figures do not tell.
    public static func notMeasured(_ kind: Kind) -> [String] {
        let common = [
            "page faults and disk reads, since all pages are in memory and mapped before the first run",
            "the exchange with other ranks, sockets, and appending the new tokens (see `dcp-bench step`)",
            "peaked attention: scores are spread evenly, so a softmax's maximum seldom moves",
        ]
        return switch kind {
        case .decode:
            common + ["memory, by a context that fits a cache: both it and its ceiling are then read from there"]
        case .prefill: common + ["rounding and laying out the new tokens' keys and values"]
        }
    }

    /// Measures all combinations. Blocks; a thread of its own calls it.
    public func run(_ bench: Bench) throws -> [Finding] {
        var results: [Finding] = []
        for dataType in dataTypes {
            var store: (kvShape: AttentionShape, store: BenchmarkStore)?
            for shape in shapes {
                let model = try shape.model(dataType)
                // Shapes that differ in query heads only attend over the same keys and values.
                if store?.kvShape.hasSameKeysAndValues(as: shape) != true {
                    store = nil
                    store = (shape, try fill(model, bench))
                }
                guard let filled = store?.store else { continue }
                for context in contexts {
                    try measure(shape, model, context, filled, bench, into: &results)
                }
                if withNewTokens { try measureNewTokens(shape, model, bench, into: &results) }
            }
        }
        return results
    }

    private func fill(_ model: ModelDescription, _ bench: Bench) throws -> BenchmarkStore {
        let tokens = contexts.max() ?? 0
        let byteCount = BenchmarkStore.diskByteCount(model, tokens: tokens)
        try bench.directory.requireRoom(byteCount)
        let store = try BenchmarkStore(directory: bench.directory.fresh("store"), model: model)
        let pattern = RowPattern(seed: bench.seed, dataType: model.kvDataType)
        bench.progress(
            "writing \(tokens) tokens of \(model.kvDataType.name) keys and values into a store of about "
                + ByteFormat.format(byteCount))
        try store.fill(upTo: tokens, pattern, bench.interruption)
        return store
    }

    private func measure(
        _ shape: AttentionShape, _ model: ModelDescription, _ context: Int, _ store: BenchmarkStore, _ bench: Bench,
        into results: inout [Finding]
    ) throws {
        let reader = try store.context(context)
        let blocks = KVBlocks(layout: reader.layout, blocks: reader.blocks, tokens: reader.tokens, isMapped: true)
        let work = Work(
            model: model, queries: try bench.queries(model, tokens: count, queries), blocks: blocks, causal: false,
            owner: reader)
        let check = try AccuracyCheck(blocks, queries: work.queries, model: model, causal: false)
        for threads in threads {
            var parameters = parameters(shape, model, context: context, threads: threads)
            parameters.queries = queries.rawValue
            bench.progress(parameters.label)
            let team = Team(threads: threads)
            let attention = Attention(work, team)
            let (figure, time) =
                switch kind {
                case .decode: try decodeFigure(attention, reader, team, bench)
                case .prefill: try prefillFigure(attention, team, bench)
                }
            results.append(
                Finding(
                    parameters: parameters, figures: [figure], time: time,
                    accuracy: check.compare(attention.states, tokens: count)))
        }
    }

    private func measureNewTokens(
        _ shape: AttentionShape, _ model: ModelDescription, _ bench: Bench, into results: inout [Finding]
    ) throws {
        let chunk = KeyValueChunk(model, tokens: count, dataType: model.kvDataType)
        chunk.fill(0..<count, RowPattern(seed: bench.seed, dataType: model.kvDataType))
        let layout = PanelLayout(
            dataType: model.kvDataType, kvHeads: model.kvHeads, keyDim: model.keyDim, valueDim: model.valueDim,
            blockTokens: 64)
        let panels = try NewTokenPanels(layout: layout, rows: chunk.rows(count), tokens: 0..<count)
        let work = Work(
            model: model, queries: try bench.queries(model, tokens: count, queries), blocks: panels.blocks,
            causal: true,
            owner: panels)
        let check = try AccuracyCheck(panels.blocks, queries: work.queries, model: model, causal: true)
        for threads in threads {
            var parameters = parameters(shape, model, context: nil, threads: threads)
            parameters.queries = queries.rawValue
            parameters.causal = true
            bench.progress(parameters.label)
            let team = Team(threads: threads)
            let attention = Attention(work, team)
            let (figure, time) = try prefillFigure(attention, team, bench)
            results.append(
                Finding(
                    parameters: parameters, figures: [figure], time: time,
                    accuracy: check.compare(attention.states, tokens: count)))
        }
    }

    private func parameters(
        _ shape: AttentionShape, _ model: ModelDescription, context: Int?, threads: Int
    ) -> Parameters {
        Parameters(
            kind == .decode ? "decode" : "prefill", shape, model.kvDataType, context: context, count: count,
            threads: threads)
    }

    // MARK: Figures

    private func decodeFigure(
        _ attention: Attention, _ reader: ContextReader, _ team: Team, _ bench: Bench
    ) throws -> (figure: Figure, time: Quantity) {
        let read = StreamingRead(reader.blocks, payloadByteCount: reader.layout.payloadByteCount, owner: reader)
        try read.chooseWays(team, bench.interruption)
        let times = try bench.repetition.measure(
            until: bench.interruption, [{ try attention.run() }] + read.bodies(team))
        let (seconds, way) = read.fastest(times.dropFirst())
        let byteCount = Double(reader.tokens * reader.layout.rowByteCount)
        let figure = Figure("K and V read", times[0].map { byteCount / $0 / 1e9 }, unit: "GB/s").under(
            "streaming read", seconds.map { Double(read.byteCount) / $0 / 1e9 },
            detail: "the same mapped pages, as many threads, " + way)
        return (figure, Quantity(times[0].map { $0 * 1e3 }, unit: "ms"))
    }

    private func prefillFigure(
        _ attention: Attention, _ team: Team, _ bench: Bench
    ) throws -> (figure: Figure, time: Quantity) {
        let peak = ArithmeticPeak(team)
        var repetition = bench.repetition
        repetition.runsMin = min(repetition.runsMin, 5)
        var rates: [Double] = []
        var sgemms: [Double] = []
        var halves: [Double] = []
        let hasBFloat16 = ArithmeticPeak.hasBFloat16
        let times = try repetition.measure(
            until: bench.interruption,
            [
                { try attention.run() },
                {
                    rates.append(peak.multiplyAdd() / 1e9)
                    sgemms.append(peak.sgemm() / 1e9)
                    if hasBFloat16 { halves.append(peak.multiplyAddBFloat16() / 1e9) }
                },
            ])
        // The first round warmed up.
        let peaks = [rates, sgemms, halves].map { Array($0.dropFirst()) }
        let perThread = attention.work.operations / Double(team.threads)
        var figure = Figure("attention", times[0].map { perThread / $0 / 1e9 }, unit: "GFLOP/s/thread")
            .under("sgemm", Samples(peaks[1]), detail: peak.sgemmDetail)
            .under("f32 multiply-add", Samples(peaks[0]), detail: "registers only, " + ArithmeticPeak.multiplyAddDetail)
        if hasBFloat16 {
            figure = figure.under("vdpbf16ps", Samples(peaks[2]), detail: "registers only, 512-bit")
        }
        return (figure, Quantity(times[0].map { $0 * 1e3 }, unit: "ms"))
    }
}

extension AttentionShape {
    func hasSameKeysAndValues(as other: AttentionShape) -> Bool {
        (kvHeads, keyDim, valueDim) == (other.kvHeads, other.keyDim, other.valueDim)
    }
}
