// SPDX-License-Identifier: Apache-2.0

import CAttentionKernels

/// The tokens of a block that each row sees, as kernels take them.
struct SeenTokens {
    var first: [Int32] = []
    var end: [Int32] = []

    init(_ ranges: [(first: Int, end: Int)]) {
        first = ranges.map { Int32($0.first) }
        end = ranges.map { Int32($0.end) }
    }

    /// Each row sees so many first tokens.
    init(upTo ends: Int...) { self.init(ends.map { (0, $0) }) }

    /// Whether all rows see the same first tokens, so that `all` says it.
    var all: dcp_token_ranges? {
        guard first.allSatisfy({ $0 == 0 }), Set(end).count == 1 else { return nil }
        return dcp_token_ranges(first: nil, end: nil, all: end[0])
    }

    func withRanges(_ body: (dcp_token_ranges) -> Void) {
        first.withUnsafeBufferPointer { first in
            end.withUnsafeBufferPointer { end in
                body(dcp_token_ranges(first: first.baseAddress, end: end.baseAddress, all: 0))
            }
        }
    }
}
