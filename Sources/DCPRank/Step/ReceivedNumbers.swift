// SPDX-License-Identifier: Apache-2.0

package import DCPAttention
package import DCPCore

/// Checks what the ranks of a group send each other, including this rank's part: attention over finite queries, keys
/// and values gives only finite numbers. The client learns which rank's memory, processor or program is at fault,
/// instead of receiving a NaN.
///
/// The merge does this, which reads the numbers anyway, and not the event loop when they arrive.
package enum ReceivedNumbers {
    /// A log-sum-exp must not be NaN or +inf; if it is finite, the outputs must be finite, too. If it is -inf, for no
    /// tokens, the outputs are not used, whatever they hold (TRAPS 5).
    /// - Parameter firstRow: of the partial's, the first of these, for the message.
    package static func check(
        _ partial: AttentionStates, firstRow: Int = 0, from member: Int
    ) throws(ServiceError) {
        try check(lse: partial.lse, firstRow: firstRow, from: member)
        guard let first = firstNotFinite(partial.outputs[...]) else { return }
        for row in first / partial.valueDim..<partial.rows where partial.lse[row] > -.infinity {
            let outputs = partial.outputs[row * partial.valueDim..<(row + 1) * partial.valueDim]
            if let output = outputs.first(where: { !$0.isFinite }) {
                throw fault("the output \(output) at the log-sum-exp \(partial.lse[row])", firstRow + row, member)
            }
        }
    }

    package static func check(lse: [Double], firstRow: Int = 0, from member: Int) throws(ServiceError) {
        for (row, value) in lse.enumerated() where !NaturalLogSumExp(value).isSound {
            throw fault("the log-sum-exp \(value)", firstRow + row, member)
        }
    }

    /// All weighted outputs must be finite; those of no tokens are 0.
    package static func check(corrected outputs: ArraySlice<Float>, from member: Int) throws(ServiceError) {
        guard let index = firstNotFinite(outputs) else { return }
        throw ServiceError(
            .internal,
            "Context rank \(member) sent the weighed output \(outputs[outputs.startIndex + index]), which no finite input gives; its result is "
                + "not used. Verify that rank's store and report this.")
    }

    private static func firstNotFinite(_ outputs: ArraySlice<Float>) -> Int? {
        outputs.withUnsafeBytes { DataType.float32.firstBeyond(.greatestFiniteMagnitude, in: $0) }
    }

    private static func fault(_ what: String, _ row: Int, _ member: Int) -> ServiceError {
        ServiceError(
            .internal,
            "Context rank \(member) sent \(what) in row \(row), which no finite input gives; its result is not used. "
                + "Verify that rank's store and report this.")
    }
}
