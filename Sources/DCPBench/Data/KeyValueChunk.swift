internal import DCPAttention
internal import DCPCore
internal import DCPTestKit

/// Memory for the keys and values of some consecutive tokens, row-major as steps bring them.
///
/// @unchecked Sendable: written by `fill` only, before it is read by others.
final class KeyValueChunk: @unchecked Sendable {
    let tokens: Int
    private let shape: ModelDescription
    private let dataType: DataType
    private let keys: UnsafeMutableRawPointer
    private let values: UnsafeMutableRawPointer

    init(_ shape: ModelDescription, tokens: Int, dataType: DataType) {
        self.tokens = tokens
        self.shape = shape
        self.dataType = dataType
        let numbers = shape.kvHeads * tokens * dataType.byteCount
        keys = .allocate(byteCount: numbers * shape.keyDim, alignment: 64)
        values = .allocate(byteCount: numbers * shape.valueDim, alignment: 64)
    }

    /// Fills the first `positions.count` tokens; the rows then have that many.
    func fill(_ positions: Range<Int>, _ pattern: RowPattern) {
        precondition(positions.count <= tokens && pattern.dataType == dataType)
        pattern.fill(tensor: 0, heads: shape.kvHeads, positions: positions, dim: shape.keyDim, into: keys)
        pattern.fill(tensor: 1, heads: shape.kvHeads, positions: positions, dim: shape.valueDim, into: values)
    }

    func rows(_ count: Int) -> KeyValueRows {
        KeyValueRows(dataType: dataType, keys: keys, values: values, tokens: count)
    }

    deinit {
        keys.deallocate()
        values.deallocate()
    }
}
