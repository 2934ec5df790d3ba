// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import Glibc

/// The natural logarithm of the sum of a softmax's exponentials: the weight of a partial in a merge.
///
/// The type states the base: kernels of other projects return base 2, and a base-2 value in a base-e merge gives a
/// plausible and wrong answer (TRAPS 1 to 3). -inf stands for "no tokens".
public struct NaturalLogSumExp: Hashable, Sendable {
    public var value: Double

    public init(_ value: Double) { self.value = value }

    /// From a base-2 log-sum-exp, as FlashInfer and TensorRT-LLM return it.
    public init(base2 value: Double) { self.value = value * M_LN2 }

    /// No tokens.
    public static let empty = NaturalLogSumExp(-.infinity)
    public var isEmpty: Bool { value == -.infinity }

    /// Neither NaN nor +inf: those come from a fault, never from attention over finite numbers (TRAPS 6).
    public var isSound: Bool { value < .infinity }
}

/// The log-sum-exp of all partials of each row.
public struct CombinedLogSumExp: Hashable, Sendable {
    /// `[rows]`, natural; -inf for a row for which no partial has tokens.
    public private(set) var values: [Double]

    /// - Parameter partials: `[partial][row]` in rank order, at least one, natural logarithms.
    /// - Throws: `.internal` when a value is NaN or +inf, naming the partial and the row.
    public init(of partials: [[Double]]) throws(ServiceError) {
        precondition(!partials.isEmpty, "There is nothing to combine.")
        let rows = partials[0].count
        precondition(partials.allSatisfy { $0.count == rows }, "Partials differ in their number of rows.")
        for (index, partial) in partials.enumerated() {
            for (row, value) in partial.enumerated() where !NaturalLogSumExp(value).isSound {
                throw ServiceError(
                    .internal,
                    "Partial \(index) has the log-sum-exp \(value) in row \(row), which no finite input gives; its "
                        + "result is not used. Verify that rank's store and report this.")
            }
        }
        values = (0..<rows).map { row in
            var highest = -Double.infinity
            for partial in partials { highest = max(highest, partial[row]) }
            // Every partial is empty: (-inf) - (-inf) would be NaN (TRAPS 7).
            guard highest > -.infinity else { return -.infinity }
            var sum = 0.0
            for partial in partials { sum += exp(partial[row] - highest) }
            return highest + log(sum)
        }
    }

    private init(values: [Double]) { self.values = values }

    /// The rows of a slice of heads.
    public func slice(rows: Range<Int>) -> CombinedLogSumExp { CombinedLogSumExp(values: Array(values[rows])) }

    /// The weight of a partial in the merge of a row: `exp(lse - LSE)`, 0 for an empty partial.
    func weight(of lse: Double, row: Int) -> Float {
        lse == -.infinity ? 0 : Float(exp(lse - values[row]))
    }
}
