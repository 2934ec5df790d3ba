// SPDX-License-Identifier: Apache-2.0

/// The sealed blocks of an idle sequence that are known to be intact: a range of each layer.
///
/// Layers with windows have read fewer than others. One range is kept where all layers have the same, as those of most
/// models do, and otherwise 8 bytes of each layer.
struct VerifiedBlocks: Sendable {
    private var ranges: [Range<UInt32>] = []

    init() {}

    /// - Parameter layers: a range of each.
    init(_ layers: [Range<Int>]) {
        ranges = layers.map { UInt32(clamping: $0.lowerBound)..<UInt32(clamping: $0.upperBound) }
        if let first = ranges.first, ranges.allSatisfy({ $0 == first }) { ranges = first.isEmpty ? [] : [first] }
    }

    subscript(layer: Int) -> Range<Int> {
        guard let range = ranges.count > 1 ? ranges[layer] : ranges.first else { return 0..<0 }
        return Int(range.lowerBound)..<Int(range.upperBound)
    }
}
