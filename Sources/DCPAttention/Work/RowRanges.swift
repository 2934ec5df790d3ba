// SPDX-License-Identifier: Apache-2.0

internal import CAttentionKernels

/// Which of some key tokens each row of a tile sees, in the form that kernels take. Borrowed memory.
struct RowRanges {
    let first: UnsafeMutablePointer<Int32>
    let end: UnsafeMutablePointer<Int32>

    /// - Parameter memory: space for two numbers for each row.
    init(_ memory: UnsafeMutablePointer<Int32>, rows: Int) {
        first = memory
        end = memory + rows
    }

    var ranges: dcp_token_ranges { dcp_token_ranges(first: first, end: end, all: 0) }

    /// All rows see this many first tokens; no range is written for each row.
    static func all(_ tokens: Int) -> dcp_token_ranges {
        dcp_token_ranges(first: nil, end: nil, all: Int32(tokens))
    }
}
