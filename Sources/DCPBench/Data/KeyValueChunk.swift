// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCore

/// Memory for the keys and values of some consecutive tokens, row-major as steps bring them.
///
/// @unchecked Sendable: written by `fill` only, before it is read by others.
final class KeyValueChunk: @unchecked Sendable {
    let tokens: Int
    private let layout: PanelLayout
    private let dataType: DataType
    private let keys: UnsafeMutableRawPointer
    private let values: UnsafeMutableRawPointer

    /// - Parameter layout: whose heads and dimensions the rows have.
    init(_ layout: PanelLayout, tokens: Int, dataType: DataType) {
        self.tokens = tokens
        self.layout = layout
        self.dataType = dataType
        let numbers = layout.kvHeads * tokens * dataType.byteCount
        keys = .allocate(byteCount: numbers * layout.keyDim, alignment: 64)
        values = .allocate(byteCount: numbers * layout.ownValueDim, alignment: 64)
    }

    /// Fills the first `positions.count` tokens; the rows then have that many.
    func fill(_ positions: Range<Int>, _ pattern: RowPattern) {
        precondition(positions.count <= tokens && pattern.dataType == dataType)
        pattern.fill(tensor: 0, heads: layout.kvHeads, positions: positions, dim: layout.keyDim, into: keys)
        pattern.fill(tensor: 1, heads: layout.kvHeads, positions: positions, dim: layout.ownValueDim, into: values)
    }

    func rows(_ count: Int) -> KeyValueRows {
        KeyValueRows(dataType: dataType, keys: keys, values: values, tokens: count)
    }

    deinit {
        keys.deallocate()
        values.deallocate()
    }
}
