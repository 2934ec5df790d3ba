// SPDX-License-Identifier: Apache-2.0

internal import DCPClient
public import DCPCore
internal import DCPOracle
internal import DCPWire

/// Keys and values through a local cluster of real daemons, without attention: appending them, and reading them back. What
/// `transfer` measures.
public struct TransferBenchmark: Sendable {
    public var shapes: [AttentionShape]
    public var formats: [CacheFormat]
    /// Ranks of the cluster, which share the tokens; each number has its own cluster.
    public var ranks: [Int]
    /// Tokens that are appended in one step, and read back in one call.
    public var count: Int

    public init(shapes: [AttentionShape], formats: [CacheFormat], ranks: [Int], count: Int) {
        self.shapes = shapes
        self.formats = formats
        self.ranks = ranks
        self.count = count
    }

    /// Costs that these figures do not include.
    public static let notMeasured = [
        "a network: ranks and client are processes of this machine, which share its memory and cores",
        "commits, which come between appending and reading back",
        "disk reads: what is read back was written just before",
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
        var parameters = Parameters("transfer", shape, format, count: count, threads: 1)
        parameters.ranks = ranks
        let model = try shape.model(format)
        try bench.directory.requireRoom(BenchmarkStore.diskByteCount(model, tokens: 2 * count))
        bench.progress(parameters.label)
        return try await bench.withCluster(ranks: ranks) { [parameters] in
            try await measure(parameters, model, $0, bench)
        }
    }

    /// The durations of one round, in seconds.
    private struct Timing {
        var append: Double
        var read: Double
        /// Into memory that has been read into before.
        var readAgain: Double
        /// Of as many bytes: copied between cold buffers, and there and back over a socket.
        var copy: Double
        var pingPong: Double
    }

    private func measure(
        _ parameters: Parameters, _ model: ModelDescription, _ cluster: Cluster, _ bench: Bench
    ) async throws -> Finding {
        let pattern = RowPattern(seed: bench.seed, dataType: model.kvFormat.rowType)
        func rows(_ tensor: Int, _ dim: Int) -> [UInt8] {
            pattern.tokenMajor(tensor: tensor, heads: model.kvHeads, positions: 0..<count, dim: dim)
        }
        let keys = rows(0, model.keyDim)
        let values = rows(1, model.valueDim)
        // Formats with scales give back other numbers than they were given.
        func kept(_ tensor: Int, _ dim: Int, _ rows: [UInt8]) -> [UInt8] {
            guard model.kvFormat.hasScales else { return rows }
            return pattern.tokenMajorKept(
                tensor: tensor, heads: model.kvHeads, positions: 0..<count, dim: dim, model.kvFormat)
        }
        let keptKeys = kept(0, model.keyDim, keys)
        let keptValues = kept(1, model.valueDim, values)
        let record = try await cluster.registerModel(StepContext.model, model)
        let sequence = try await cluster.openSequence(StepContext.sequence, model: record.name)
        let byteCount = keys.count + values.count
        let copy = MemoryCopy(byteCount: byteCount, threads: 1)
        let pingPong = try SocketPingPong([(byteCount, byteCount)])
        let team = Team(threads: 1)
        var timings: [Timing] = []
        var again = CachedRows()
        let start = ContinuousClock.now
        // A warm-up round: connections and first page faults.
        while timings.isEmpty
            || bench.repetition.wantsAnother(
                after: timings.count - 1, elapsed: (ContinuousClock.now - start).inSeconds)
        {
            try bench.interruption.check()
            let tokens = (
                TokenRows(
                    dataType: model.kvFormat.rowType, tokens: count, heads: model.kvHeads, dim: model.keyDim,
                    bytes: keys),
                TokenRows(
                    dataType: model.kvFormat.rowType, tokens: count, heads: model.kvHeads, dim: model.valueDim,
                    bytes: values)
            )
            var clock = ContinuousClock.now
            try await cluster.append(
                layer: 0, [sequence.entry(position: 0, count: count)], model: record, keys: tokens.0, values: tokens.1)
            let append = (ContinuousClock.now - clock).inSeconds
            try await cluster.commit([SequenceLength(sequence: sequence.record.id, length: count)])
            clock = ContinuousClock.now
            let read = try await cluster.rows(of: sequence, layer: 0, positions: 0..<count)
            let reading = (ContinuousClock.now - clock).inSeconds
            clock = ContinuousClock.now
            try await cluster.rows(of: sequence, layer: 0, positions: 0..<count, into: &again)
            let readingAgain = (ContinuousClock.now - clock).inSeconds
            guard read.keys == keptKeys, read.values == keptValues, again.keys == keptKeys, again.values == keptValues
            else {
                throw ServiceError(
                    .internal,
                    "The keys and values read back differ from those appended, as the cache keeps them. Report this as a "
                        + "bug.")
            }
            try await cluster.cut(StepContext.sequence, to: 0)
            let (copied, echoed) = try await onOwnThread {
                (Stopwatch.seconds { copy.copy(team) }, try Stopwatch.seconds { try pingPong.round() })
            }
            timings.append(
                Timing(append: append, read: reading, readAgain: readingAgain, copy: copied, pingPong: echoed))
        }
        return finding(parameters, Array(timings.dropFirst()), byteCount)
    }

    private func finding(_ parameters: Parameters, _ timings: [Timing], _ byteCount: Int) -> Finding {
        func rates(_ seconds: (Timing) -> Double) -> Samples {
            Samples(timings.map { Double(byteCount) / seconds($0) / 1e9 })
        }
        func figure(_ name: String, _ seconds: (Timing) -> Double) -> Figure {
            Figure(name, rates(seconds), unit: "GB/s")
                .under("memcpy", rates(\.copy), detail: "as many bytes of K and V, one thread, between cold buffers")
                .under(
                    "ping-pong", rates { $0.pingPong / 2 },
                    detail: "as many bytes one way over a Unix socket, half of there and back")
        }
        return Finding(
            parameters: parameters,
            figures: [
                figure("append", \.append), figure("read back", \.read), figure("read back, again", \.readAgain),
            ],
            time: Quantity(Samples(timings.map { ($0.append + $0.read + $0.readAgain) * 1e3 }), unit: "ms"))
    }
}
