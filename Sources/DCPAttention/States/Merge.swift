// SPDX-License-Identifier: Apache-2.0

public import DCPCore

/// Merging partials, in three steps that both exchanges consist of, so that both give the same bits: all-to-all calls
/// `merge` on the receiver; all-gather with reduce-scatter combines the gathered log-sum-exps, corrects on the sender
/// and sums on the receiver.
///
/// The merge is associative and commutative up to rounding; ranks always merge in rank order, so a layout gives the
/// same bits run after run.
extension AttentionStates {
    /// The log-sum-exp over ranks, per row: -inf where every partial is empty.
    /// - Parameter partials: `[rank][row]` in rank order.
    /// - Throws: `.internal` for NaN or +inf (TRAPS 6).
    public static func combinedLSE(_ partials: [[Double]]) throws(ServiceError) -> CombinedLogSumExp {
        try CombinedLogSumExp(of: partials)
    }

    /// This partial's share of the merged outputs: `o * exp(lse - LSE)`, row-major `[rows][valueDim]`.
    ///
    /// Where the weight is 0 the share is 0 whatever the output holds: 0 x NaN would be NaN (TRAPS 5).
    public func corrected(by combined: CombinedLogSumExp) -> [Float] {
        precondition(combined.values.count == rows, "The combined log-sum-exp is of other rows.")
        return [Float](unsafeUninitializedCapacity: outputs.count) { shares, count in
            outputs.withUnsafeBufferPointer { outputs in
                for row in 0..<rows {
                    let weight = combined.weight(of: lse[row], row: row)
                    for index in row * valueDim..<(row + 1) * valueDim {
                        shares.initializeElement(at: index, to: weight == 0 ? 0 : outputs[index] * weight)
                    }
                }
            }
            count = outputs.count
        }
    }

    /// The sum of all ranks' shares, in rank order.
    /// - Parameter shares: `[rank]` of row-major `[rows][valueDim]`, at least one, all finite.
    public static func sum(of shares: [[Float]]) -> [Float] {
        precondition(!shares.isEmpty && shares.allSatisfy { $0.count == shares[0].count })
        // The sum begins with the first share and not with 0, so that a single share keeps its bits, -0 included.
        var sum = shares[0]
        for share in shares.dropFirst() {
            sum.withUnsafeMutableBufferPointer { sum in
                share.withUnsafeBufferPointer { share in
                    for index in 0..<sum.count { sum[index] += share[index] }
                }
            }
        }
        // Weights add up to 1, so a sum of finite shares is at most rounding beyond the largest number.
        let largest = Float.greatestFiniteMagnitude
        for index in 0..<sum.count { sum[index] = min(max(sum[index], -largest), largest) }
        return sum
    }

    /// The merged state of partials over disjoint tokens, in the order given. One partial keeps its bits.
    ///
    /// A sink is one more partial, of output 0 and its logit as log-sum-exp: it takes part in the denominator and adds
    /// nothing. So it must count once for each row, whatever the ranks and parts: only the rank that owns a head gives
    /// it, in its last merge. Without any token the merged state is (0, sink).
    ///
    /// - Parameter sinks: one for each head whose rows the partials have, or none.
    /// - Throws: `.internal` when a log-sum-exp is NaN or +inf (TRAPS 6).
    public static func merge(
        _ partials: [AttentionStates], sinks: [Float] = []
    ) throws(ServiceError) -> AttentionStates {
        precondition(!partials.isEmpty && partials.allSatisfy { $0.valueDim == partials[0].valueDim })
        let (rows, dim) = (partials[0].rows, partials[0].valueDim)
        var lse = partials.map(\.lse)
        if !sinks.isEmpty {
            precondition(rows % sinks.count == 0, "Each head has a sink, or none has.")
            lse.append(sinks.flatMap { [Double](repeating: Double($0), count: rows / sinks.count) })
        }
        let combined = try combinedLSE(lse)
        // The bits of `sum(of:)` over `corrected(by:)`, in one pass.
        let outputs = [Float](unsafeUninitializedCapacity: rows * dim) { merged, count in
            guard let first = merged.baseAddress else { return }
            for (place, partial) in partials.enumerated() {
                partial.outputs.withUnsafeBufferPointer { outputs in
                    guard let outputs = outputs.baseAddress else { return }
                    for row in 0..<rows {
                        add(
                            outputs + row * dim, combined.weight(of: partial.lse[row], row: row),
                            to: first + row * dim, count: dim, isFirst: place == 0)
                    }
                }
            }
            count = rows * dim
            // Weights add up to 1, so a sum of finite shares is at most rounding beyond the largest number.
            let largest = Float.greatestFiniteMagnitude
            for index in 0..<count { first[index] = min(max(first[index], -largest), largest) }
        }
        return AttentionStates(valueDim: dim, outputs: outputs, lse: combined.values)
    }

    /// Adds a row's share to a sum. The sum begins with the first share and not with 0, so that a single share keeps
    /// its bits, -0 included.
    private static func add(
        _ row: UnsafePointer<Float>, _ weight: Float, to sum: UnsafeMutablePointer<Float>, count: Int, isFirst: Bool
    ) {
        // Decided for each row, not for each number: a loop without branches is vectorised.
        switch (isFirst, weight == 0) {
        case (true, true): sum.initialize(repeating: 0, count: count)
        case (true, false): for at in 0..<count { sum[at] = row[at] * weight }
        case (false, true): for at in 0..<count { sum[at] += 0 }
        case (false, false): for at in 0..<count { sum[at] += row[at] * weight }
        }
    }
}
