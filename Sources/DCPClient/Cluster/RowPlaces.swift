// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPWire

/// The places of a rank's tokens and heads in the whole result.
struct RowPlaces {
    var layout: ContextLayout
    var contextRank: Int
    /// Local indices, by rising position.
    var owned: Range<Int>
    /// The position of the first token of all.
    var origin: Int
    var group: Int
    var groups: Int

    /// - Parameter source: `[owned][rowByteCount]`
    func spread(_ source: PayloadPart, to target: inout [UInt8], rowByteCount: Int) {
        guard rowByteCount > 0 else { return }
        source.withUnsafeBytes { source in
            target.withUnsafeMutableBytes { target in
                guard let source = source.baseAddress, let target = target.baseAddress else { return }
                var index = owned.lowerBound
                while index < owned.upperBound {
                    // Positions that follow each other.
                    let count = min(
                        layout.contextRanks == 1 ? owned.count : layout.interleave - index % layout.interleave,
                        owned.upperBound - index)
                    let token = layout.position(ofLocalIndex: index, rank: contextRank) - origin
                    let from = source + (index - owned.lowerBound) * rowByteCount
                    let to = target + (token * groups + group) * rowByteCount
                    if groups == 1 {
                        to.copyMemory(from: from, byteCount: count * rowByteCount)
                    } else {
                        for row in 0..<count {
                            (to + row * groups * rowByteCount).copyMemory(
                                from: from + row * rowByteCount, byteCount: rowByteCount)
                        }
                    }
                    index += count
                }
            }
        }
    }
}
