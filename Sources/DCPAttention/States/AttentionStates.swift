// SPDX-License-Identifier: Apache-2.0

/// The attention state of many rows: normalised outputs and their natural log-sum-exp.
///
/// A row is one query head of one query token. The order everywhere in the system is head-major, `[head][token]`, so a
/// contiguous range of heads is a contiguous range of rows. The state of a row that saw no token is (0, -inf); it is
/// set from lengths, never inferred from what a kernel left behind (TRAPS: the contract for empty shards).
public struct AttentionStates: Hashable, Sendable {
    public let rows: Int
    /// Dv.
    public let valueDim: Int
    /// Row-major `[rows][valueDim]`.
    public var outputs: [Float]
    /// `[rows]`, natural; -inf for a row without tokens.
    ///
    /// Float64: a log-sum-exp is as large as the scores, and its rounding is the relative error of a weight. In Float32
    /// it was 5e-5 at scores of 1e4, and at 1e8 one token weighed as much as a thousand.
    public var lse: [Double]

    /// - Parameters:
    ///   - outputs: row-major `[rows][valueDim]`.
    ///   - lse: `[rows]`, natural logarithms.
    public init(valueDim: Int, outputs: [Float], lse: [Double]) {
        precondition(outputs.count == lse.count * valueDim, "Outputs and log-sum-exps differ in their rows.")
        self.rows = lse.count
        self.valueDim = valueDim
        self.outputs = outputs
        self.lse = lse
    }

    /// Rows that saw no token: (0, -inf).
    public static func empty(rows: Int, valueDim: Int) -> AttentionStates {
        AttentionStates(
            valueDim: valueDim, outputs: [Float](repeating: 0, count: rows * valueDim),
            lse: [Double](repeating: NaturalLogSumExp.empty.value, count: rows))
    }

    /// Rows that must be written before they are read: clearing those of a prefill would take as long as merging them.
    package static func unspecified(rows: Int, valueDim: Int) -> AttentionStates {
        AttentionStates(
            valueDim: valueDim, outputs: [Float](unspecified: rows * valueDim), lse: [Double](unspecified: rows))
    }

    /// Rows of several states one after the other: slices of heads in rank order become all heads.
    public init(joining slices: [AttentionStates]) {
        precondition(!slices.isEmpty && slices.allSatisfy { $0.valueDim == slices[0].valueDim })
        self.init(
            valueDim: slices[0].valueDim, outputs: slices.flatMap(\.outputs), lse: slices.flatMap(\.lse))
    }

    public func logSumExp(row: Int) -> NaturalLogSumExp { NaturalLogSumExp(lse[row]) }

    /// A contiguous range of rows. The rows of heads `a..<b` in a step of `n` tokens are `a * n..<b * n`.
    public func slice(rows: Range<Int>) -> AttentionStates {
        AttentionStates(
            valueDim: valueDim, outputs: Array(outputs[rows.lowerBound * valueDim..<rows.upperBound * valueDim]),
            lse: Array(lse[rows]))
    }
}

extension Array where Element: BitwiseCopyable {
    /// Undefined elements, of a type for which any bits are a value.
    init(unspecified count: Int) {
        self.init(unsafeUninitializedCapacity: count) { _, initializedCount in initializedCount = count }
    }
}
