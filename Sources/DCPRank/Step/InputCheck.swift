// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPWire

/// The check of a step's tensors, a piece at a time, as a value.
///
/// It covers all tensors of the step, not only what this rank keeps of them. With queries all ranks of a group receive
/// the same keys and values, so none of them appends what another refuses. Without queries each receives only its own
/// tokens, and the machine makes them wait for each other.
struct InputCheck: Sendable {
    private struct Tensor {
        var kind: InputLimits.Tensor
        var rows: PayloadPart
        var dataType: DataType
        var firstHead: Int
        var heads: Int
        var tokens: Int
        var dim: Int

        var headByteCount: Int { tokens * dim * dataType.byteCount }
    }

    private let plan: StepPlan
    private let limits: InputLimits
    private let tensors: [Tensor]
    /// The next part to check.
    private var tensor = 0
    private var head = 0
    private var failure: ServiceError?

    /// Bytes that are checked at once, in about 0.5 ms.
    private static let byteCountAtOnce = 4 << 20

    init(of request: StepRequest, _ plan: StepPlan, _ limits: InputLimits) {
        self.plan = plan
        self.limits = limits
        let rowCount = plan.keyValueTokens
        tensors = [
            Tensor(
                kind: .query, rows: request.queries, dataType: request.queryDataType,
                firstHead: request.queryMode == .gather ? plan.ownHeads.lowerBound : 0, heads: request.queryHeads,
                tokens: plan.tokens, dim: request.keyDim),
            Tensor(
                kind: .key, rows: request.keys, dataType: request.keyValueDataType, firstHead: 0,
                heads: request.kvHeads, tokens: rowCount, dim: request.keyDim),
            Tensor(
                kind: .value, rows: request.values, dataType: request.keyValueDataType, firstHead: 0,
                heads: request.kvHeads, tokens: rowCount, dim: request.valueDim),
        ]
    }

    /// Checks the next piece; after a refusal, throws the same error again.
    /// - Returns: whether all have been checked.
    mutating func advance() throws(ServiceError) -> Bool {
        if let failure { throw failure }
        var left = Self.byteCountAtOnce
        do throws(ServiceError) {
            while tensor < tensors.count, left > 0 {
                let current = tensors[tensor]
                let byteCount = current.headByteCount
                let some = head..<min(head + max(1, left / max(byteCount, 1)), current.heads)
                guard !some.isEmpty, byteCount > 0 else {
                    (tensor, head) = (tensor + 1, 0)
                    continue
                }
                try check(some, of: current)
                left -= some.count * byteCount
                head = some.upperBound
            }
        } catch {
            failure = error
            throw error
        }
        return tensor == tensors.count
    }

    private func check(_ some: Range<Int>, of tensor: Tensor) throws(ServiceError) {
        try tensor.rows.withBytes { (bytes) throws(ServiceError) in
            try limits.check(
                tensor.kind,
                UnsafeRawBufferPointer(
                    start: bytes + some.lowerBound * tensor.headByteCount, count: some.count * tensor.headByteCount),
                dataType: tensor.dataType, firstHead: tensor.firstHead + some.lowerBound, tokens: tensor.tokens,
                dim: tensor.dim
            ) { tensor.kind == .query ? $0 : plan.token(ofRow: $0) }
        }
    }
}
