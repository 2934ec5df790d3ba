// SPDX-License-Identifier: Apache-2.0

internal import CAttentionKernels
public import DCPCore

/// The new-token part of an entry with one new token, which sees only itself: its weight is 1, and its output is its
/// value as the cache rounds it. It needs no panels and no split.
public struct OwnToken: Sendable {
    private let attention: LayerAttention
    private let format: CacheFormat
    private let partition: HeadPartition
    private let heads: Range<Int>

    /// - Parameters:
    ///   - format: the cache format.
    ///   - heads: the query heads to compute, as indices in the head group.
    public init(_ attention: LayerAttention, _ format: CacheFormat, partition: HeadPartition, heads: Range<Int>) {
        self.attention = attention
        self.format = format
        self.partition = partition
        self.heads = heads
    }

    /// Writes the rows of one token.
    /// - Parameters:
    ///   - token: its index in the step, as in `queries` and `rows`.
    ///   - states: rows `[heads][step tokens]`.
    /// - Throws: `.invalidRequest` when a value is NaN, infinite, or beyond the cache format's range.
    public func attend(
        _ token: Int, _ queries: QueryRows, _ rows: KeyValueRows, into states: inout AttentionStates
    ) throws(ServiceError) {
        precondition(queries.tokens == rows.tokens && queries.keyDim == attention.keyDim)
        precondition(states.rows == heads.count * queries.tokens && states.valueDim == attention.valueDim)
        guard !heads.isEmpty else { return }
        let shared = partition.queryHeadsPerKVHead, tokens = queries.tokens
        let (keyDim, valueDim, ownValueDim) = (attention.keyDim, attention.valueDim, attention.ownValueDim)
        let size = rows.dataType.byteCount
        var own = dcp_own_token()
        own.row_type = Int32(rows.dataType.rawValue)
        own.format = Int32(format.rawValue)
        (own.key_dim, own.value_dim) = (Int32(keyDim), Int32(valueDim))
        (own.scale, own.soft_cap) = (attention.scale, attention.softcap ?? 0)
        let first = partition.kvHead(ofQueryHead: heads.lowerBound)
        let last = partition.kvHead(ofQueryHead: heads.upperBound - 1)
        let isFinite = queries.values.withUnsafeBufferPointer { queryRows in
            states.outputs.withUnsafeMutableBufferPointer { outputs in
                states.lse.withUnsafeMutableBufferPointer { lse in
                    (first...last).allSatisfy { kvHead in
                        let some = heads.clamped(to: kvHead * shared..<(kvHead + 1) * shared)
                        own.key = rows.keys + (kvHead * tokens + token) * keyDim * size
                        own.value =
                            ownValueDim > 0 ? rows.values + (kvHead * tokens + token) * ownValueDim * size : nil
                        let query = (some.lowerBound - queries.heads.lowerBound) * tokens + token
                        let row = (some.lowerBound - heads.lowerBound) * tokens + token
                        return dcp_attend_own_token(
                            AttentionKernels.chosen.table, &own, Int64(some.count),
                            queryRows.baseAddress! + query * keyDim, Int64(tokens * keyDim),
                            outputs.baseAddress! + row * valueDim, Int64(tokens * valueDim),
                            lse.baseAddress! + row, Int64(tokens)) == 0
                    }
                }
            }
        }
        guard isFinite else { throw NewTokenPanels.notFinite(format) }
    }
}
