// SPDX-License-Identifier: Apache-2.0

internal import DCPClient
public import DCPCore
internal import DCPOracle
internal import DCPWire

/// Forks of one sequence by real daemons: one, and a list in one request, of committed tokens and of uncommitted ones. What
/// `forks` measures.
public struct ForkBenchmark: Sendable {
    public var shapes: [AttentionShape]
    public var formats: [CacheFormat]
    /// Ranks of the cluster; each number has its own cluster.
    public var ranks: [Int]
    /// Tokens that are forked.
    public var context: Int
    /// Forks of a list.
    public var forks: Int

    public init(shapes: [AttentionShape], formats: [CacheFormat], ranks: [Int], context: Int, forks: Int) {
        self.shapes = shapes
        self.formats = formats
        self.ranks = ranks
        self.context = context
        self.forks = forks
    }

    /// Costs that these figures do not include.
    public static let notMeasured = [
        "a network: ranks and client are processes of this machine, which share its memory and cores",
        "steps of the forks, which a client runs next",
    ]

    /// Measures all combinations.
    public func run(_ bench: Bench) async throws -> [Finding] {
        try AttentionShape.check(shapes, formats)
        var findings: [Finding] = []
        for format in formats {
            for shape in shapes {
                for ranks in ranks { findings.append(try await measure(shape, format, ranks, bench)) }
            }
        }
        return findings
    }

    private func measure(
        _ shape: AttentionShape, _ format: CacheFormat, _ ranks: Int, _ bench: Bench
    ) async throws -> Finding {
        var parameters = Parameters("forks", shape, format, context: context, count: forks, threads: 1)
        parameters.ranks = ranks
        let model = try shape.model(format, layers: 1)
        try bench.directory.requireRoom(BenchmarkStore.diskByteCount(model, tokens: 2 * context))
        bench.progress(parameters.label)
        return finding(parameters, try await bench.withCluster(ranks: ranks) { try await measure(model, $0, bench) })
    }

    /// The durations of one round, in seconds.
    private struct Timing {
        /// Of committed tokens.
        var one: Double
        var list: Double
        var uncommittedList: Double
        /// A page of a plain file, written and on the disk.
        var write: Double
    }

    private func measure(
        _ model: ModelDescription, _ cluster: Cluster, _ bench: Bench
    ) async throws -> [Timing] {
        let pattern = RowPattern(seed: bench.seed, dataType: model.kvFormat.rowType)
        let record = try await cluster.registerModel(StepContext.model, model)
        func sequence(_ name: String, isCommitted: Bool) async throws -> SequenceHandle {
            let sequence = try await cluster.openSequence(name, model: record.name)
            func rows(_ tensor: Int, _ dim: Int) -> TokenRows {
                TokenRows(
                    dataType: model.kvFormat.rowType, tokens: context, heads: model.kvHeads, dim: dim,
                    bytes: pattern.tokenMajor(tensor: tensor, heads: model.kvHeads, positions: 0..<context, dim: dim))
            }
            try await cluster.append(
                layer: 0, [sequence.entry(position: 0, count: context)], model: record, keys: rows(0, model.keyDim),
                values: rows(1, model.valueDim))
            guard isCommitted else { return sequence }
            try await cluster.commit([SequenceLength(sequence: sequence.record.id, length: context)])
            return sequence
        }
        let committed = try await sequence("committed", isCommitted: true)
        let uncommitted = try await sequence("uncommitted", isCommitted: false)
        let file = try PlainFile(bench.directory.fresh("page"), byteCount: 4096)
        var timings: [Timing] = []
        let start = ContinuousClock.now
        // A warm-up round: connections, claims, first page faults.
        while timings.isEmpty
            || bench.repetition.wantsAnother(
                after: timings.count - 1, elapsed: (ContinuousClock.now - start).inSeconds)
        {
            try bench.interruption.check()
            timings.append(
                Timing(
                    one: try await fork(committed, 1, cluster), list: try await fork(committed, forks, cluster),
                    uncommittedList: try await fork(uncommitted, forks, cluster),
                    write: try Stopwatch.seconds { try file.write(isSynced: true) }))
        }
        return Array(timings.dropFirst())
    }

    /// Forks a sequence, looks whether all forks have its tokens, and closes them.
    /// - Returns: seconds that the forks took.
    private func fork(_ sequence: SequenceHandle, _ count: Int, _ cluster: Cluster) async throws -> Double {
        // Through the last block.
        let wanted = (0..<count).map { (name: "fork-\($0)", length: context - 1) }
        let clock = ContinuousClock.now
        for outcome in try await cluster.fork(sequence, as: wanted) { _ = try outcome.get() }
        let seconds = (ContinuousClock.now - clock).inSeconds
        let forks = try await cluster.openSequences(wanted.map(\.name), model: nil).map { try $0.get() }
        let statuses = try await cluster.statuses(of: forks)
        guard forks.allSatisfy({ statuses[$0.record.id]?.layerLengths == [context - 1] }) else {
            throw ServiceError(.internal, "A fork has other tokens than its parent had. Report this as a bug.")
        }
        for outcome in try await cluster.closeSequences(forks) { try outcome.get() }
        return seconds
    }

    private func finding(_ parameters: Parameters, _ timings: [Timing]) -> Finding {
        func samples(_ seconds: (Timing) -> Double) -> Samples { Samples(timings.map { seconds($0) * 1e3 }) }
        let one = samples(\.one)
        return Finding(
            parameters: parameters,
            figures: [
                Figure("one fork", one, unit: "ms").under(
                    "a synced write", samples(\.write),
                    detail: "4 KiB of a plain file to the disk, which the coordinator's record waits for"),
                Figure("a list of \(forks)", samples(\.list), unit: "ms").of("one fork", one),
                Figure("a list of \(forks), uncommitted", samples(\.uncommittedList), unit: "ms").of("one fork", one),
            ],
            time: Quantity(samples(\.list), unit: "ms"))
    }
}
