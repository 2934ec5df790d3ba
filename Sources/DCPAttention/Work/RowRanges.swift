// SPDX-License-Identifier: Apache-2.0

internal import CAttentionKernels

/// What each row of a tile sees of some key tokens, as kernels take it. Borrowed memory.
struct RowRanges {
    let first: UnsafeMutablePointer<Int32>
    let end: UnsafeMutablePointer<Int32>

    /// - Parameter memory: room for two numbers a row.
    init(_ memory: UnsafeMutablePointer<Int32>, rows: Int) {
        first = memory
        end = memory + rows
    }

    var ranges: dcp_token_ranges { dcp_token_ranges(first: first, end: end, all: 0) }

    /// All rows see so many first tokens: nothing is written for each.
    static func all(_ tokens: Int) -> dcp_token_ranges {
        dcp_token_ranges(first: nil, end: nil, all: Int32(tokens))
    }
}
