// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
public import DCPCore

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
    public var formats: [CacheFormat]
    public var contexts: [Int]
    public var threads: [Int]
    /// Query tokens.
    public var count: Int
    public var queries: QueryKind
    public var visibility: Visibility
    /// Decode: the sequences of a call.
    public var batch: KernelBatch
    /// Whether scores are as peaked as a trained model's.
    public var isPeaked: Bool
    /// Prefill: also the step's own tokens, which attend to each other.
    public var withNewTokens: Bool

    public init(
        _ kind: Kind, shapes: [AttentionShape], formats: [CacheFormat], contexts: [Int], threads: [Int], count: Int,
        queries: QueryKind = .bfloat16, visibility: Visibility = .all, batch: KernelBatch = .one,
        isPeaked: Bool = false,
        withNewTokens: Bool = false
    ) {
        self.kind = kind
        self.shapes = shapes
        self.formats = formats
        self.contexts = contexts
        self.threads = threads
        self.count = count
        self.queries = queries
        self.visibility = visibility
        self.batch = batch
        self.isPeaked = isPeaked
        self.withNewTokens = withNewTokens
    }

    /// Costs that these figures do not include.
    public static func notMeasured(_ kind: Kind) -> [String] {
        let common = [
            "page faults and disk reads, since all pages are in memory and mapped before the first run",
            "the exchange with other ranks, sockets, and appending the new tokens (see `dcp-bench step`)",
        ]
        return switch kind {
        case .decode:
            common + ["memory, by a context that fits a cache: both it and its ceiling are then read from there"]
        case .prefill: common + ["rounding and laying out the new tokens' keys and values"]
        }
    }

    /// Measures all combinations. Blocks; called on a separate thread.
    public func run(_ bench: Bench) throws -> [Finding] {
        var bench = bench
        if isPeaked { bench.scoreDeviation = Bench.peakedDeviation }
        for context in contexts { try batch.check(context) }
        try AttentionShape.check(shapes, formats)
        var results: [Finding] = []
        for format in formats {
            var filled: (kvShape: AttentionShape, context: KernelContext)?
            for shape in shapes {
                // Shapes that differ in query heads only attend over the same keys and values.
                if filled?.kvShape.hasSameKeysAndValues(as: shape) != true {
                    filled = nil
                    filled = (
                        shape,
                        try KernelContext(
                            shape, format, tokens: batch.storedTokens(contexts.max() ?? 0), bench)
                    )
                }
                guard let held = filled?.context else { continue }
                for context in contexts {
                    try measure(shape, format, context, held, bench, into: &results)
                }
                if withNewTokens { try measureNewTokens(shape, format, bench, into: &results) }
            }
        }
        return results
    }

    private func measure(
        _ shape: AttentionShape, _ format: CacheFormat, _ context: Int, _ held: KernelContext, _ bench: Bench,
        into results: inout [Finding]
    ) throws {
        let attention = try shape.attention(visibility)
        let (contexts, owner) = try held.contexts(of: batch, context)
        let layout = try KernelContext.layout
        let work = Work(
            attention: attention, queries: bench.queries(attention, tokens: count * contexts.count, queries),
            entries: contexts.map { blocks in
                Work.Entry(
                    visible: .context(
                        visibility, seenFrom: blocks.tokens..<blocks.tokens + count, of: layout, rank: 0,
                        local: LocalIndex(0)..<LocalIndex(blocks.tokens)), blocks: blocks)
            }, owner: owner)
        let check = try AccuracyCheck(work)
        for threads in threads {
            var parameters = parameters(shape, format, context: context, threads: threads)
            parameters.queries = queries.rawValue
            bench.progress(parameters.label)
            let team = Team(threads: threads)
            let attention = Attention(work, team)
            // Many query heads share the one key of latent attention: arithmetic is its limit in decode, too.
            let isArithmetic = if case .forks = batch { true } else { shape.isLatent }
            var (figures, time) =
                kind == .decode && !isArithmetic
                ? try decodeFigures(attention, team, bench) : try prefillFigures(attention, team, bench)
            if case .forks = batch { figures.append(try forkFigure(attention, team, bench)) }
            if kind == .decode, case .window(let window) = visibility {
                figures.append(try windowFigure(attention, window: window, held, team, bench))
            }
            results.append(
                Finding(
                    parameters: parameters, figures: figures, time: time,
                    accuracy: check.compare(attention.states, tokens: work.queries.tokens)))
        }
    }

    private func measureNewTokens(
        _ shape: AttentionShape, _ format: CacheFormat, _ bench: Bench, into results: inout [Finding]
    ) throws {
        let attention = try shape.attention(visibility)
        let panels = try KernelContext.panels(attention, format, tokens: count, bench)
        let work = Work(
            attention: attention, queries: bench.queries(attention, tokens: count, queries),
            entries: [Work.Entry(visible: .new(visibility, at: 0..<count), blocks: panels.blocks)], owner: panels)
        let check = try AccuracyCheck(work)
        for threads in threads {
            var parameters = parameters(shape, format, context: nil, threads: threads)
            parameters.queries = queries.rawValue
            parameters.causal = true
            bench.progress(parameters.label)
            let team = Team(threads: threads)
            let attention = Attention(work, team)
            let (figures, time) = try prefillFigures(attention, team, bench)
            results.append(
                Finding(
                    parameters: parameters, figures: figures, time: time,
                    accuracy: check.compare(attention.states, tokens: count)))
        }
    }

    private func parameters(
        _ shape: AttentionShape, _ format: CacheFormat, context: Int?, threads: Int
    ) -> Parameters {
        var parameters = Parameters(
            kind == .decode ? "decode" : "prefill", shape, format, context: context, count: count, threads: threads)
        if case .window(let tokens) = visibility { parameters.window = tokens }
        parameters.batch = batch.label
        parameters.isPeaked = isPeaked ? true : nil
        return parameters
    }

    // MARK: Figures

    private func decodeFigures(
        _ attention: Attention, _ team: Team, _ bench: Bench
    ) throws -> (figures: [Figure], time: Quantity) {
        let work = attention.work
        let read = StreamingRead(
            work.seenBlocks, payloadByteCount: work.entries[0].blocks.layout.payloadByteCount, owner: work.owner)
        try read.chooseWays(team, bench.interruption)
        let times = try bench.repetition.measure(
            until: bench.interruption, [{ try attention.run() }] + read.bodies(team))
        let (seconds, way) = read.fastest(times.dropFirst())
        let byteCount = Double(work.byteCount)
        let figure = Figure("K and V read", times[0].map { byteCount / $0 / 1e9 }, unit: "GB/s").under(
            "streaming read", seconds.map { Double(read.byteCount) / $0 / 1e9 },
            detail: "the same mapped pages, as many threads, " + way)
        return ([figure], Quantity(times[0].map { $0 * 1e3 }, unit: "ms"))
    }

    /// A step whose queries see a window, beside one over a context that is as long.
    private func windowFigure(
        _ attention: Attention, window: Int, _ held: KernelContext, _ team: Team, _ bench: Bench
    ) throws -> Figure {
        let work = attention.work
        let tokens = min(window, work.entries[0].blocks.tokens)
        let (blocks, owner) = try held.blocks(tokens)
        let short = Attention(
            Work(
                attention: work.attention, queries: work.queries,
                entries: [Work.Entry(visible: .all(count: count, of: tokens), blocks: blocks)], owner: owner), team)
        let times = try bench.repetition.measure(
            until: bench.interruption, [{ try attention.run() }, { try short.run() }])
        return Figure("step", times[0].map { $0 * 1e3 }, unit: "ms").under(
            "step over \(tokens) tokens", times[1].map { $0 * 1e3 }, detail: "all of them seen, as many threads")
    }

    /// A step of all forks beside as many steps of one fork each.
    private func forkFigure(_ attention: Attention, _ team: Team, _ bench: Bench) throws -> Figure {
        let work = attention.work
        let alone = work.entries.map { entry in
            Attention(
                Work(
                    attention: work.attention, queries: bench.queries(work.attention, tokens: count, queries),
                    entries: [entry], owner: work.owner), team)
        }
        let times = try bench.repetition.measure(
            until: bench.interruption,
            [{ try attention.run() }, { for one in alone { try one.run() } }])
        return Figure("step of \(alone.count) forks", times[0].map { $0 * 1e3 }, unit: "ms").of(
            "\(alone.count) steps of one", times[1].map { $0 * 1e3 }, detail: "one after the other, as many threads")
    }

    private func prefillFigures(
        _ attention: Attention, _ team: Team, _ bench: Bench
    ) throws -> (figures: [Figure], time: Quantity) {
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
        return ([figure], Quantity(times[0].map { $0 * 1e3 }, unit: "ms"))
    }
}

extension AttentionShape {
    func hasSameKeysAndValues(as other: AttentionShape) -> Bool {
        (kvHeads, keyDim, valueDim, isLatent) == (other.kvHeads, other.keyDim, other.valueDim, other.isLatent)
    }
}
