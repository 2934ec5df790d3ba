// SPDX-License-Identifier: Apache-2.0

internal import CAttentionKernels

/// The second level of a long piece's sums: Float64, for the tiles of a piece while it is computed.
///
/// A state of the kernels takes 4,096 tokens; then it is added to these sums and starts over. Shorter pieces have none.
/// At the end of the piece the sums go back into the state, so that `finish` sees one form.
final class CarriedStates {
    private let maximum: UnsafeMutablePointer<Float>
    private let sum: UnsafeMutablePointer<Double>
    private let output: UnsafeMutablePointer<Double>
    /// The first row of each tile.
    private let firstRow: [Int]
    private let valueDim: Int
    private let shift: Int32
    private var heldTokens = 0

    /// - Parameters:
    ///   - rows: the rows of each tile.
    ///   - shift: the work's shift.
    init(rows: [Int], valueDim: Int, shift: Int32) {
        var count = 0
        firstRow = rows.map { rows in
            defer { count += rows }
            return count
        }
        self.valueDim = valueDim
        self.shift = shift
        maximum = .allocate(capacity: count)
        maximum.initialize(repeating: -.infinity, count: count)
        sum = .allocate(capacity: count)
        sum.initialize(repeating: 0, count: count)
        output = .allocate(capacity: count * valueDim)
        output.initialize(repeating: 0, count: count * valueDim)
    }

    deinit {
        maximum.deallocate()
        sum.deallocate()
        output.deallocate()
    }

    /// The power of two by which a piece's weights are smaller than those of one state, so that their sum is at most
    /// 1/2, too; 0 for pieces of one state. All pieces of a work have the same shift.
    static func shift(tokensMax: Int) -> Int32 {
        var shift: Int32 = 0
        while dcp_state_tokens_max << shift < tokensMax { shift += 1 }
        return shift
    }

    /// Counts the tokens that the states take next.
    /// - Returns: whether the states must be carried first.
    func count(_ tokens: Int) -> Bool {
        let areFull = heldTokens + tokens > dcp_state_tokens_max
        heldTokens = areFull ? tokens : heldTokens + tokens
        return areFull
    }

    func carry(_ rows: inout dcp_attention_rows, tile: Int) { dcp_carry_rows(&rows, self[tile]) }

    func settle(_ rows: inout dcp_attention_rows, tile: Int) { dcp_settle_rows(&rows, self[tile], shift) }

    private subscript(tile: Int) -> dcp_carried_rows {
        let row = firstRow[tile]
        return dcp_carried_rows(maximum: maximum + row, sum: sum + row, output: output + row * valueDim)
    }
}
