// SPDX-License-Identifier: Apache-2.0

internal import CAttentionKernels
public import DCPCore

/// The queries of one step and layer, for a contiguous range of the group's query heads: Float32, unscaled.
public struct QueryRows: Sendable {
    /// Indices in the head group.
    public let heads: Range<Int>
    /// The tokens of the whole step, of all its entries.
    public let tokens: Int
    /// Dk.
    public let keyDim: Int
    /// `[heads][tokens][keyDim]`.
    public private(set) var values: [Float]

    /// Rows that `set` must fill, all of them; until then they are undefined. Clearing those of a prefill would take as
    /// long as its queries do.
    public init(heads: Range<Int>, tokens: Int, keyDim: Int) {
        self.init(
            heads: heads, tokens: tokens, keyDim: keyDim,
            values: [Float](unspecified: heads.count * tokens * keyDim))
    }

    /// - Parameter values: `[heads][tokens][keyDim]`.
    public init(heads: Range<Int>, tokens: Int, keyDim: Int, values: [Float]) {
        precondition(heads.lowerBound >= 0 && tokens >= 0 && values.count == heads.count * tokens * keyDim)
        self.heads = heads
        self.tokens = tokens
        self.keyDim = keyDim
        self.values = values
    }

    /// Stores the rows of some of the heads, as a client or another rank sent them.
    ///
    /// - Parameters:
    ///   - slice: a part of `heads`; may be empty.
    ///   - rows: `[slice][tokens][keyDim]` of `dataType`, unaligned.
    /// - Throws: `.invalidRequest` if a number is beyond the limits.
    public mutating func set(
        heads slice: Range<Int>, dataType: DataType, rows: UnsafeRawPointer, limits: InputLimits
    ) throws(ServiceError) {
        guard !slice.isEmpty else { return }
        precondition(slice.lowerBound >= heads.lowerBound && slice.upperBound <= heads.upperBound)
        let start = (slice.lowerBound - heads.lowerBound) * tokens * keyDim
        let count = slice.count * tokens * keyDim
        let bytes = UnsafeRawBufferPointer(start: rows, count: count * dataType.byteCount)
        try limits.check(.query, bytes, dataType: dataType, firstHead: slice.lowerBound, tokens: tokens, dim: keyDim)
        values.withUnsafeMutableBufferPointer { values in
            guard let base = values.baseAddress else { return }
            let result = dcp_rows_to_f32(
                AttentionKernels.chosen.table, Int32(dataType.rawValue), rows, Int64(count), base + start)
            precondition(result == 0, "Checked to be finite.")
        }
    }
}
