// SPDX-License-Identifier: Apache-2.0

internal import DCPClient
internal import DCPCore
internal import DCPOracle
internal import DCPWire

/// The coordinator's directory with many sequences in it, through real daemons: opening, looking up, forking, closing and
/// listing. What `directory` measures.
public struct DirectoryBenchmark: Sendable {
    /// Numbers of existing sequences to measure with.
    public var sequences: [Int]
    public var ranks: Int
    /// Requests of a round of each kind.
    public var requests: Int
    /// How many of them are on their way at once.
    public var pipelined: Int

    public init(sequences: [Int], ranks: Int, requests: Int, pipelined: Int) {
        self.sequences = sequences
        self.ranks = ranks
        self.requests = requests
        self.pipelined = pipelined
    }

    /// Costs that these figures do not include.
    public static let notMeasured = [
        "tokens: the sequences are empty",
        "a network: ranks and client are processes of this machine, which share its cores and its disk",
    ]

    /// Names in a request while the directory is filled.
    private static let fillCount = 512
    private static let shape = "1x1x8"

    /// All sizes with one cluster, the smaller first.
    public func run(_ bench: Bench) async throws -> [Finding] {
        try await bench.withCluster(ranks: ranks) { cluster in
            let shape = try AttentionShape(Self.shape)
            let record = try await cluster.registerModel(StepContext.model, try shape.model(.bfloat16, layers: 1))
            var findings: [Finding] = []
            var filled = 0
            for count in sequences.sorted() {
                var parameters = Parameters(
                    "directory of \(count)", shape, .bfloat16, count: 1, threads: 1)
                parameters.ranks = ranks
                parameters.load = "\(requests) requests, \(pipelined) at once"
                bench.progress(parameters.label)
                while filled < count {
                    try bench.interruption.check()
                    let names = (filled..<min(filled + Self.fillCount, count)).map(Self.name)
                    for outcome in try await cluster.openSequences(names, model: record.name) { _ = try outcome.get() }
                    filled += names.count
                }
                findings.append(try await measure(parameters, count, cluster, bench))
            }
            return findings
        }
    }

    private static func name(_ number: Int) -> String { "conversation-\(number)" }

    /// The durations of one round, in seconds.
    private struct Timing {
        var opens = 0.0
        var lookUps = 0.0
        var forks = 0.0
        var closes = 0.0
        var list = 0.0
    }

    private func measure(
        _ parameters: Parameters, _ count: Int, _ cluster: Cluster, _ bench: Bench
    ) async throws -> Finding {
        var timings: [Timing] = []
        var random = SeededGenerator(seed: bench.seed)
        let start = ContinuousClock.now
        // A warm-up round: connections, first page faults.
        while timings.isEmpty
            || bench.repetition.wantsAnother(
                after: timings.count - 1, elapsed: (ContinuousClock.now - start).inSeconds)
        {
            try bench.interruption.check()
            let known = (0..<requests).map { _ in Self.name(Int.random(in: 0..<count, using: &random)) }
            timings.append(try await round(known, count, cluster))
        }
        return finding(parameters, Array(timings.dropFirst()))
    }

    private func round(_ known: [String], _ count: Int, _ cluster: Cluster) async throws -> Timing {
        var timing = Timing()
        timing.opens = try await seconds { index in
            _ = try await cluster.openSequence("new-\(index)", model: StepContext.model)
        }
        timing.lookUps = try await seconds { index in
            guard try await cluster.openSequence(known[index], model: nil).record.name == known[index] else {
                throw ServiceError(.internal, "\(known[index]) is another sequence. Report this as a bug.")
            }
        }
        timing.forks = try await seconds { index in
            _ = try await cluster.fork("new-\(index)", as: "fork-\(index)", length: 0)
        }
        let clock = ContinuousClock.now
        let listed = try await cluster.sequences().count
        timing.list = (ContinuousClock.now - clock).inSeconds
        guard listed >= count + 2 * requests else {
            throw ServiceError(
                .internal, "\(listed) sequences are listed of \(count + 2 * requests). Report this as a bug.")
        }
        timing.closes = try await seconds { index in try await cluster.closeSequence("fork-\(index)") }
        _ = try await seconds { index in try await cluster.closeSequence("new-\(index)") }
        return timing
    }

    /// The duration of all requests, this many at a time.
    private func seconds(_ request: @escaping @Sendable (Int) async throws -> Void) async throws -> Double {
        let (requests, pipelined) = (requests, pipelined)
        let clock = ContinuousClock.now
        try await withThrowingTaskGroup(of: Void.self) { group in
            for lane in 0..<pipelined {
                group.addTask {
                    for index in stride(from: lane, to: requests, by: pipelined) { try await request(index) }
                }
            }
            try await group.waitForAll()
        }
        return (ContinuousClock.now - clock).inSeconds
    }

    private func finding(_ parameters: Parameters, _ timings: [Timing]) -> Finding {
        func rate(_ name: String, _ seconds: (Timing) -> Double) -> Figure {
            Figure(name, Samples(timings.map { Double(requests) / seconds($0) }), unit: "/s")
        }
        return Finding(
            parameters: parameters,
            figures: [
                rate("opens", \.opens), rate("look-ups by name", \.lookUps),
                rate("forks, each with its claim", \.forks),
                rate("closes, each with its claim", \.closes),
                Figure("the whole list", Samples(timings.map { $0.list * 1e3 }), unit: "ms"),
            ],
            time: Quantity(Samples(timings.map { $0.opens * 1e3 }), unit: "ms"))
    }
}
