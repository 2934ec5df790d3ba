// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import DCPWire

#if canImport(Glibc)
    internal import Glibc
#endif

/// The result of a canary.
public struct HealthReport: Sendable {
    public let epoch: Epoch
    public let ranks: Int
    /// The steps' largest difference from a float64 computation here.
    public let outputErrorMax: Float
    public let prefillStep: Duration
    public let decodeStep: Duration
    /// Why ranks refuse new tokens, their own reasons first; empty if all accept them.
    public internal(set) var refusals: [String] = []
}

extension Cluster {
    private static let canaryErrorMax: Float = 1e-4

    /// Sends a real step through all ranks: prefill long enough that every rank owns tokens, a decode step over them,
    /// and a comparison. A cluster that answers it works; one that only listens may not (TRAPS 14).
    ///
    /// It uses a temporary sequence. A canary is small and may succeed where other steps would not, so the ranks'
    /// uncommitted bytes are checked as well.
    ///
    /// - Throws: the step's failure; `.internal` if the answer is wrong; `.overloaded` if a rank refuses tokens because
    ///   too many are uncommitted.
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
            // The canary's own failure is the one to report. A sequence that cannot be closed now appears in `sequence
            // list`.
            do throws(ServiceError) { try await closeSequence(name) } catch {}
            throw error
        }
    }

    private static func checkUncommitted(_ status: RankStatus) throws(ServiceError) {
        let (held, limit) = (status.uncommittedByteCount, status.uncommittedByteCountMax)
        guard held > limit / 16 * 15 else { return }
        throw ServiceError(
            .overloaded,
            "Clients hold \(held) uncommitted bytes on \(status.rank), and its limit is \(limit) "
                + "(uncommitted-limit): steps of other clients are refused with the names of the sequences. They "
                + "succeed again when these sequences are committed, or claim-timeout after their clients have "
                + "gone.", rank: status.rank)
    }

    /// Like `health`, for repeated use: always in the same sequence, whose tokens are rolled back and never committed.
    /// Except for the first time it writes to no disk, so it also works with full disks. One call at a time.
    ///
    /// - Throws: the step's failure; `.internal` when the answer is wrong.
    package func lastingCanary() async throws(ServiceError) -> HealthReport {
        let (topology, sequence) = try await openCanary(CanaryNames.sequence)
        // Tokens left by an incomplete canary.
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
                "The canary's answer is off by \(worst), but the limit is \(Self.canaryErrorMax): the cluster computes "
                    + "wrongly. Stop using it and report this.")
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
