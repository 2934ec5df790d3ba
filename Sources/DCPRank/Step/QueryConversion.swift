internal import DCPAttention
internal import DCPCore
internal import DCPWire
internal import NIOCore

/// The queries of a step's heads in Float32, converted some heads at a time.
struct QueryConversion: Sendable {
    private let slices: [(heads: Range<Int>, slice: QuerySlice)]
    private let limits: InputLimits
    private var queries: QueryRows
    /// What is converted next.
    private var slice = 0
    private var head = 0

    /// Converted at once: some 0.5 ms.
    private static let numbersAtOnce = 1 << 19

    /// - Parameter slices: those of all the heads, numbered inside the head group.
    init(heads: Range<Int>, _ slices: [(heads: Range<Int>, slice: QuerySlice)], _ plan: StepPlan, _ limits: InputLimits)
    {
        self.slices = slices
        self.limits = limits
        queries = QueryRows(heads: heads, tokens: plan.tokens, keyDim: plan.attention.keyDim)
    }

    /// Converts the next piece.
    /// - Returns: nil as long as there is more.
    mutating func advance() throws(ServiceError) -> QueryRows? {
        var left = Self.numbersAtOnce
        while slice < slices.count, left > 0 {
            let (heads, rows) = slices[slice]
            let count = queries.tokens * queries.keyDim
            let some = head..<min(head + max(1, left / count), heads.count)
            if !some.isEmpty {
                try rows.queries.withBytes { (bytes) throws(ServiceError) in
                    try queries.set(
                        heads: heads.lowerBound + some.lowerBound..<heads.lowerBound + some.upperBound,
                        dataType: rows.dataType, rows: bytes + some.lowerBound * count * rows.dataType.byteCount,
                        limits: limits)
                }
            }
            left -= some.count * count
            head = some.upperBound
            if head == heads.count { (slice, head) = (slice + 1, 0) }
        }
        return slice == slices.count ? queries : nil
    }
}
