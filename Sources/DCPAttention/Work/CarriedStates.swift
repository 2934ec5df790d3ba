// SPDX-License-Identifier: Apache-2.0

internal import CAttentionKernels

/// The second level of a long piece's sums: Float64, for the tiles of one piece while it is computed.
///
/// A state of the kernels takes 4,096 tokens; then it is added here and begins anew. Of a piece that is no longer there are
/// none. What is left at the piece's end goes back to the state, so `finish` sees one form.
final class CarriedStates {
    private let maximum: UnsafeMutablePointer<Float>
    private let sum: UnsafeMutablePointer<Double>
    private let output: UnsafeMutablePointer<Double>
    /// For each tile, the first of its rows.
    private let firstRow: [Int]
    private let valueDim: Int
    private let shift: Int32
    private var heldTokens = 0

    /// - Parameters:
    ///   - rows: of each tile.
    ///   - shift: of the work.
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

    /// By how many powers of two a piece's weights are smaller than those of one state, so that their sum is at most 1/2 as
    /// well; 0 for pieces of one state. All pieces of a work have the same.
    static func shift(tokensMax: Int) -> Int32 {
        var shift: Int32 = 0
        while dcp_state_tokens_max << shift < tokensMax { shift += 1 }
        return shift
    }

    /// Counts tokens that the states take next.
    /// - Returns: whether they have to be carried before.
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
