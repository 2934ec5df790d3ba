internal import DCPAttention
internal import DCPCore
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
        completion: @escaping Completion<AttentionStates>
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
        completion: @escaping Completion<AttentionStates>
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

    /// - Parameter context: the merged context part of some rows; nil where there is none.
    private func merge(
        _ newTokens: AttentionStates, in place: Place, completion: @escaping Completion<AttentionStates>,
        context: @escaping @Sendable (_ rows: Range<Int>) throws(ServiceError) -> AttentionStates?
    ) {
        let dim = newTokens.valueDim
        let rowsAtOnce = max(1, Self.outputsAtOnce / dim)
        let kept = Kept((outputs: [Float](), lse: [Double]()))
        submit(in: place, completion) { [self] () throws(ServiceError) -> AttentionStates? in
            let first = kept.value.lse.count
            let rows = first..<min(first + rowsAtOnce, newTokens.rows)
            if rows.count == newTokens.rows { return try merged(context(rows), newTokens, rows: rows) }
            if first == 0 {
                kept.value.outputs.reserveCapacity(newTokens.rows * dim)
                kept.value.lse.reserveCapacity(newTokens.rows)
            }
            let merged = try merged(context(rows), newTokens.slice(rows: rows), rows: rows)
            kept.value.outputs += merged.outputs
            kept.value.lse += merged.lse
            guard rows.upperBound == newTokens.rows else { return nil }
            return AttentionStates(valueDim: dim, outputs: kept.value.outputs, lse: kept.value.lse)
        }
    }

    /// The end of the own heads' attention. Their sinks count here, once: no other rank and no piece knows them.
    /// - Parameter rows: of the step's, those that the parts have.
    private func merged(
        _ context: AttentionStates?, _ newTokens: AttentionStates, rows: Range<Int>
    ) throws(ServiceError) -> AttentionStates {
        let sinks = plan.sinks.isEmpty ? [] : rows.map { plan.sinks[$0 / plan.tokens] }
        var parts = [context, newTokens].compactMap { $0 }
        if broken == .sink {
            parts = try parts.map { (part) throws(ServiceError) in try AttentionStates.merge([part], sinks: sinks) }
        }
        return try AttentionStates.merge(parts, sinks: sinks)
    }
}
