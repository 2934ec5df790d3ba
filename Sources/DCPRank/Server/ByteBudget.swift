// SPDX-License-Identifier: Apache-2.0

/// Bytes that some work holds while it is in flight, up to a limit. What is alone always fits: a limit that is below one
/// step's need refuses none for ever.
struct ByteBudget {
    let byteCountMax: Int
    private(set) var heldByteCount = 0

    init(byteCountMax: Int) { self.byteCountMax = byteCountMax }

    func fits(_ byteCount: Int) -> Bool { heldByteCount == 0 || heldByteCount + byteCount <= byteCountMax }

    mutating func take(_ byteCount: Int) { heldByteCount += byteCount }

    mutating func giveBack(_ byteCount: Int) {
        heldByteCount -= byteCount
        precondition(heldByteCount >= 0, "more was given back than taken")
    }
}
