// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCore
internal import DCPWire

/// Converts the queries of a step's heads to Float32, a few heads at a time.
struct QueryConversion: Sendable {
    /// Queries of some heads, as they were received.
    struct Part: Sendable {
        /// Indices in the head group.
        var heads: Range<Int>
        var dataType: DataType
        var rows: PayloadPart
    }

    private let parts: [Part]
    private let limits: InputLimits
    private var queries: QueryRows
    /// The next part to convert.
    private var part = 0
    private var head = 0

    /// Numbers that are converted at once, in about 0.5 ms.
    private static let numbersAtOnce = 1 << 19

    /// - Parameter parts: those of all the heads.
    init(heads: Range<Int>, _ parts: [Part], _ plan: StepPlan, _ limits: InputLimits) {
        self.parts = parts
        self.limits = limits
        queries = QueryRows(heads: heads, tokens: plan.tokens, keyDim: plan.attention.keyDim)
    }

    /// Converts the next piece.
    /// - Returns: nil as long as there is more.
    mutating func advance() throws(ServiceError) -> QueryRows? {
        var left = Self.numbersAtOnce
        while part < parts.count, left > 0 {
            let (heads, dataType, rows) = (parts[part].heads, parts[part].dataType, parts[part].rows)
            let count = queries.tokens * queries.keyDim
            let some = head..<min(head + max(1, left / count), heads.count)
            if !some.isEmpty {
                try rows.withBytes { (bytes) throws(ServiceError) in
                    try queries.set(
                        heads: heads.lowerBound + some.lowerBound..<heads.lowerBound + some.upperBound,
                        dataType: dataType, rows: bytes + some.lowerBound * count * dataType.byteCount,
                        limits: limits)
                }
            }
            left -= some.count * count
            head = some.upperBound
            if head == heads.count { (part, head) = (part + 1, 0) }
        }
        return part == parts.count ? queries : nil
    }
}
