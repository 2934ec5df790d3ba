public import DCPCore

/// Where every number of a block's payload is: the layout that the kernels read and the store keeps.
///
/// A payload holds, for each KV head of the head group, its K panel and then its V panel:
///
/// | KV dtype | K panel | V panel |
/// |---|---|---|
/// | f32, f16 | `[Dk][blockTokens]` | `[blockTokens][Dv]` |
/// | bf16 | `[Dk/2][blockTokens][2]` | `[blockTokens/2][Dv][2]` |
///
/// So scores accumulate with tokens along SIMD lanes and need no horizontal sums; measured, three times as fast as
/// row-major on the same kernel. The bf16 pairs are the operands of `vdpbf16ps`: two dimensions of one token in K, two
/// tokens of one dimension in V.
public struct PanelLayout: Hashable, Sendable {
    public let dataType: DataType
    /// KV heads of one head group.
    public let kvHeads: Int
    public let keyDim: Int
    public let valueDim: Int
    public let blockTokens: Int

    /// - Parameter shape: a model that `cluster.check` has accepted.
    public init(_ shape: ModelShape, in cluster: ClusterShape) {
        self.init(
            dataType: shape.kvDataType, kvHeads: shape.kvHeads / cluster.headGroups, keyDim: shape.keyDim,
            valueDim: shape.valueDim, blockTokens: cluster.layout.blockTokens)
    }

    public init(dataType: DataType, kvHeads: Int, keyDim: Int, valueDim: Int, blockTokens: Int) {
        precondition(kvHeads >= 1 && keyDim % 2 == 0 && valueDim % 2 == 0)
        precondition(keyDim >= 2 && valueDim >= 2)
        precondition(blockTokens >= 1 && blockTokens % ContextLayout.blockTokensMultiple == 0)
        self.dataType = dataType
        self.kvHeads = kvHeads
        self.keyDim = keyDim
        self.valueDim = valueDim
        self.blockTokens = blockTokens
    }

    public var keyPanelByteCount: Int { keyDim * blockTokens * dataType.byteCount }
    public var valuePanelByteCount: Int { valueDim * blockTokens * dataType.byteCount }
    /// One KV head: its K panel, then its V panel.
    public var headByteCount: Int { keyPanelByteCount + valuePanelByteCount }
    public var payloadByteCount: Int { kvHeads * headByteCount }
    /// One token read back out of the panels: K `[kvHeads][Dk]`, then V `[kvHeads][Dv]`, in the KV dtype.
    public var rowByteCount: Int { kvHeads * (keyDim + valueDim) * dataType.byteCount }

    public func keyPanelOffset(ofHead head: Int) -> Int { head * headByteCount }
    public func valuePanelOffset(ofHead head: Int) -> Int { head * headByteCount + keyPanelByteCount }
}
