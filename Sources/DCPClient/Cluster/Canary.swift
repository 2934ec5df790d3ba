public import DCPCore
internal import DCPWire

#if canImport(Glibc)
    internal import Glibc
#endif

/// What a canary found.
public struct HealthReport: Sendable {
    public let epoch: Epoch
    public let ranks: Int
    /// The steps' largest difference from a float64 computation here.
    public let outputErrorMax: Float
    public let prefillStep: Duration
    public let decodeStep: Duration
    /// Why ranks take no new tokens, those of their own first; empty when all do.
    public internal(set) var refusals: [String] = []
}

extension Cluster {
    private static let canaryErrorMax: Float = 1e-4

    /// Sends a real step through all ranks: prefill long enough that every rank owns tokens, a decode step over them,
    /// and a comparison. A cluster that answers this serves; one that only listens may not (TRAPS 14).
    ///
    /// In a sequence of its own, which is closed again. A canary is small and goes through where nothing else would, so what
    /// ranks hold uncommitted is looked at, too.
    ///
    /// - Throws: the step's failure; `.internal` when the answer is wrong; `.overloaded` when a rank is about to refuse tokens,
    ///   since others are not committed.
    public func health() async throws(ServiceError) -> HealthReport {
        let name = "\(CanaryNames.sequence)-" + String(client.value, radix: 16)
        let (topology, sequence) = try await openCanary(name)
        do throws(ServiceError) {
            var report = try await canary(sequence, topology)
            try await closeSequence(name)
            for status in try await rankStatuses() {
                try Self.checkUncommitted(status)
                if !status.room.refusal.isEmpty, !report.refusals.contains(status.room.refusal) {
                    report.refusals.append(status.room.refusal)
                }
            }
            return report
        } catch {
            // The canary's own failure is the news. A sequence that cannot be closed now shows in `sequence list`.
            do throws(ServiceError) { try await closeSequence(name) } catch {}
            throw error
        }
    }

    private static func checkUncommitted(_ status: RankStatus) throws(ServiceError) {
        let (held, limit) = (status.uncommittedByteCount, status.uncommittedByteCountMax)
        guard held > limit / 16 * 15 else { return }
        throw ServiceError(
            .overloaded,
            "Clients hold \(held) bytes uncommitted on \(status.rank), its limit is \(limit) (uncommitted-limit): steps of others "
                + "are refused, with the names of the sequences. They go on when these are committed, or claim-timeout after "
                + "their clients are gone.", rank: status.rank)
    }

    /// As `health`, to be asked again and again: always in the same sequence, whose tokens are taken back and never
    /// committed. Apart from the first time nothing is written to any disk, so it works with full ones too. One at a time.
    ///
    /// - Throws: the step's failure; `.internal` when the answer is wrong.
    package func lastingCanary() async throws(ServiceError) -> HealthReport {
        let (topology, sequence) = try await openCanary(CanaryNames.sequence)
        // What a canary left that did not come to its end.
        try await resume(sequence, atMost: 0)
        let report = try await canary(sequence, topology)
        try await resume(sequence, atMost: 0)
        return report
    }

    private func openCanary(_ name: String) async throws(ServiceError) -> (Topology, SequenceHandle) {
        let topology = try await topology()
        guard topology.phase == .ready else {
            throw ServiceError(.notReady, "The cluster is not ready: \(topology.reason).")
        }
        let opened = try await ask(one: OpenCanary(name: name))
        return (topology, SequenceHandle(record: opened.sequence, model: opened.model))
    }

    private func canary(_ sequence: SequenceHandle, _ topology: Topology) async throws(ServiceError) -> HealthReport {
        let model = sequence.model
        let tokens = topology.shape.layout.canaryTokens
        let prefill = tokens - 1
        let attention = model.description[0]
        var random = SystemRandomNumberGenerator()
        func numbers(_ heads: Int, _ dim: Int) -> [Float] {
            (0..<tokens * heads * dim).map { _ in Float.random(in: -1...1, using: &random) }
        }
        let queries = numbers(attention.queryHeads, attention.keyDim)
        let keys = numbers(attention.kvHeads, attention.keyDim)
        let values = numbers(attention.kvHeads, attention.valueDim)
        func rows(_ values: [Float], _ heads: Int, _ dim: Int, _ range: Range<Int>) -> TokenRows {
            let row = heads * dim
            return TokenRows(
                Array(values[range.lowerBound * row..<range.upperBound * row]), tokens: range.count, heads: heads,
                dim: dim)
        }
        let clock = ContinuousClock()
        var durations: [Duration] = []
        var worst: Float = 0
        for range in [0..<prefill, prefill..<tokens] {
            let began = clock.now
            let answer = try await step(
                layer: 0, [sequence.entry(position: range.lowerBound, count: range.count)], model: model,
                queries: rows(queries, attention.queryHeads, attention.keyDim, range),
                keys: rows(keys, attention.kvHeads, attention.keyDim, range),
                values: rows(values, attention.kvHeads, attention.valueDim, range))
            durations.append(clock.now - began)
            let last = range.upperBound - 1
            let expected = Self.attend(attention, query: last, queries: queries, keys: keys, values: values)
            let row = attention.queryHeads * attention.valueDim
            for (value, wanted) in zip(answer.outputs.suffix(row), expected) {
                let difference = abs(value - Float(wanted))
                worst = difference.isNaN ? .infinity : max(worst, difference)
            }
        }
        guard worst <= Self.canaryErrorMax else {
            throw ServiceError(
                .internal,
                "The canary's answer is off by \(worst), the limit is \(Self.canaryErrorMax): the cluster computes wrongly. "
                    + "Stop using it and report this.")
        }
        return HealthReport(
            epoch: topology.epoch, ranks: topology.shape.ranks, outputErrorMax: worst, prefillStep: durations[0],
            decodeStep: durations[1])
    }

    /// One token's causal attention in float64, all heads: what the cluster must answer.
    private static func attend(
        _ attention: LayerAttention, query: Int, queries: [Float], keys: [Float], values: [Float]
    ) -> [Double] {
        (0..<attention.queryHeads).flatMap { head -> [Double] in
            let kvHead = head / (attention.queryHeads / attention.kvHeads)
            let scores = (0...query).map { token -> Double in
                (0..<attention.keyDim).reduce(0) { sum, dim in
                    sum + Double(queries[(query * attention.queryHeads + head) * attention.keyDim + dim])
                        * Double(keys[(token * attention.kvHeads + kvHead) * attention.keyDim + dim])
                } * Double(attention.scale)
            }
            let highest = scores.max() ?? 0
            let weights = scores.map { exp($0 - highest) }
            let total = weights.reduce(0, +)
            return (0..<attention.valueDim).map { dim in
                (0...query).reduce(0) { sum, token in
                    sum + weights[token]
                        * Double(values[(token * attention.kvHeads + kvHead) * attention.valueDim + dim])
                } / total
            }
        }
    }
}
