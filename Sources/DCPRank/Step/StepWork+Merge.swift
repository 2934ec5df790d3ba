// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCore
internal import DCPWire
internal import Synchronization

/// What a step computes of the partial results of its group, some rows at a time.
extension StepWork {
    /// Outputs that are merged at once: some 0.5 ms.
    static let outputsAtOnce = 1 << 16

    /// Reduce-scatter, first half: this rank's outputs weighed by the combined LSE, cut by rank, one rank's at a time.
    func correct(
        _ states: AttentionStates, lse: [[Double]], in place: Place,
        completion: @escaping Completion<([[Float]], [Double])>
    ) {
        let kept = Kept((combined: CombinedLogSumExp?.none, slices: [[Float]]()))
        submit(in: place, completion) { [plan] () throws(ServiceError) -> ([[Float]], [Double])? in
            guard let combined = kept.value.combined else {
                for (member, rows) in lse.enumerated() { try ReceivedNumbers.check(lse: rows, from: member) }
                kept.value.combined = try AttentionStates.combinedLSE(lse)
                return nil
            }
            let rows = plan.rows(ofRank: kept.value.slices.count)
            kept.value.slices.append(states.slice(rows: rows).corrected(by: combined.slice(rows: rows)))
            guard kept.value.slices.count == plan.members else { return nil }
            return (kept.value.slices, combined.slice(rows: plan.rows(ofRank: plan.contextRank)).values)
        }
    }

    func merge(
        _ partials: [Partial], _ newTokens: AttentionStates, in place: Place,
        completion: @escaping Completion<EncodedBody>
    ) {
        merge(newTokens, in: place, completion: completion) { rows throws(ServiceError) in
            guard !partials.isEmpty else { return nil }
            let some = partials.map { $0.states(ofRows: rows) }
            for (member, partial) in some.enumerated() {
                try ReceivedNumbers.check(partial, firstRow: rows.lowerBound, from: member)
            }
            return try AttentionStates.merge(some)
        }
    }

    func reduce(
        _ summands: [[Float]], lse: [Double], _ newTokens: AttentionStates, in place: Place,
        completion: @escaping Completion<EncodedBody>
    ) {
        let dim = newTokens.valueDim
        merge(newTokens, in: place, completion: completion) { rows throws(ServiceError) in
            let some = summands.map { $0[rows.lowerBound * dim..<rows.upperBound * dim] }
            for (member, outputs) in some.enumerated() {
                try ReceivedNumbers.check(corrected: outputs, from: member)
            }
            return AttentionStates(
                valueDim: dim, outputs: AttentionStates.sum(of: some.map(Array.init)), lse: Array(lse[rows]))
        }
    }

    /// The answer is written as it is computed.
    /// - Parameter context: the merged context part of some rows; nil where there is none.
    private func merge(
        _ newTokens: AttentionStates, in place: Place, completion: @escaping Completion<EncodedBody>,
        context: @escaping @Sendable (_ rows: Range<Int>) throws(ServiceError) -> AttentionStates?
    ) {
        let rowsAtOnce = max(1, Self.outputsAtOnce / newTokens.valueDim)
        let kept = Kept((answer: plan.pendingAnswer, rows: 0))
        submit(in: place, completion) { [self] () throws(ServiceError) -> EncodedBody? in
            let first = kept.value.rows
            let rows = first..<min(first + rowsAtOnce, newTokens.rows)
            let own = rows.count == newTokens.rows ? newTokens : newTokens.slice(rows: rows)
            let merged = try merged(context(rows), own, rows: rows)
            kept.value.answer.append(outputs: merged.outputs, lse: merged.lse)
            kept.value.rows = rows.upperBound
            return rows.upperBound == newTokens.rows ? kept.value.answer.body : nil
        }
    }

    /// The end of the own heads' attention. Their sinks count here, once: no other rank and no piece knows them.
    /// - Parameter rows: of the step's, those that the parts have.
    private func merged(
        _ context: AttentionStates?, _ newTokens: AttentionStates, rows: Range<Int>
    ) throws(ServiceError) -> AttentionStates {
        let sinks = plan.sinks.isEmpty ? [] : rows.map { plan.sinks[$0 / plan.tokens] }
        return try AttentionStates.merge([context, newTokens].compactMap { $0 }, sinks: sinks)
    }
}
