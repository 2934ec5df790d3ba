// SPDX-License-Identifier: Apache-2.0

internal import CAttentionKernels
public import DCPCore

/// Where each number of a block's payload is: the layout that kernels read and the store keeps.
///
/// A payload holds, for each KV head of the head group, its K panel and then its V panel; no V panel where values are
/// the first dimensions of keys:
///
/// | cache format | K panel | V panel |
/// |---|---|---|
/// | f32, f16 | `[Dk][blockTokens]` | `[Dv/64][blockTokens][64]` |
/// | bf16, fp8 | `[Dk/2][blockTokens][2]` | `[Dv/64][blockTokens/2][64][2]` |
/// | int8 | `[Dk/4][blockTokens][4]` | `[Dv/64][blockTokens/4][64][4]` |
///
/// Each panel of int8 and fp8 is followed by the scales of its tokens, `[blockTokens]` in Float32, and those of int8
/// keys by the tokens' words, `[blockTokens]` in 32 bits. Bytes of int8 keys are the number plus 128.
///
/// Scores accumulate with tokens along SIMD lanes and need no horizontal sums: three times as fast as row-major with
/// the same kernel. The bf16 pairs are the operands of `vdpbf16ps`: two dimensions of one token in K, two tokens of one
/// dimension in V.
///
/// V is in strips of 64 dimensions, which a tile of the kernels takes at once: a strip is one stream of addresses. If
/// 64 does not divide Dv, the last strip is narrower, so a panel has no padding: a Dv of 80 is `[blockTokens/2][64][2]`
/// and then `[blockTokens/2][16][2]`. A Dv of up to 64 is one strip.
public struct PanelLayout: Hashable, Sendable {
    public let format: CacheFormat
    /// KV heads of one head group.
    public let kvHeads: Int
    public let keyDim: Int
    public let values: LayerAttention.Values
    public let blockTokens: Int

    /// - Parameter attention: of a model that `cluster.check` has accepted.
    public init(_ attention: LayerAttention, _ format: CacheFormat, in cluster: ClusterShape) {
        self.init(
            attention, format, kvHeads: attention.kvHeads / cluster.headGroups,
            blockTokens: cluster.layout.blockTokens)
    }

    /// - Parameter kvHeads: of the head group.
    public init(_ attention: LayerAttention, _ format: CacheFormat, kvHeads: Int, blockTokens: Int) {
        self.init(
            format: format, kvHeads: kvHeads, keyDim: attention.keyDim, values: attention.values,
            blockTokens: blockTokens)
    }

    /// Whether values have panels of their own.
    public init(format: CacheFormat, kvHeads: Int, keyDim: Int, valueDim: Int, blockTokens: Int) {
        self.init(
            format: format, kvHeads: kvHeads, keyDim: keyDim, values: .own(valueDim), blockTokens: blockTokens)
    }

    package init(format: CacheFormat, kvHeads: Int, keyDim: Int, values: LayerAttention.Values, blockTokens: Int) {
        precondition(kvHeads >= 1 && (2...LayerAttention.keyDims.upperBound).contains(keyDim) && keyDim % 2 == 0)
        precondition(blockTokens >= 1 && blockTokens % ContextLayout.blockTokensMultiple == 0)
        self.format = format
        self.kvHeads = kvHeads
        self.keyDim = keyDim
        self.values = values
        self.blockTokens = blockTokens
        precondition((2...LayerAttention.valueDims.upperBound).contains(valueDim) && valueDim % 2 == 0)
        if case .leading(let dim) = values { precondition(dim <= keyDim) }
        precondition(!format.hasScales || (ownValueDim > 0 && keyDim % 4 == 0 && valueDim % 4 == 0))
    }

    /// Dv, of a value and of an output.
    public var valueDim: Int { values.dim }

    /// The dimensions of the V panel; 0 if values are the first dimensions of keys and there is none.
    public var ownValueDim: Int { values.ownDim }

    public var keyPanelByteCount: Int {
        blockTokens * (keyDim * format.elementByteCount + format.scaleByteCount + format.wordByteCount)
    }
    public var valuePanelByteCount: Int {
        ownValueDim == 0 ? 0 : blockTokens * (ownValueDim * format.elementByteCount + format.scaleByteCount)
    }
    /// Bytes of one KV head: its K panel, then its V panel.
    public var headByteCount: Int { keyPanelByteCount + valuePanelByteCount }
    public var payloadByteCount: Int { kvHeads * headByteCount }
    /// Bytes of a token read back from the panels: K `[kvHeads][Dk]`, then V `[kvHeads][Dv]`, in the format's row type.
    public var rowByteCount: Int { kvHeads * (keyDim + ownValueDim) * format.rowType.byteCount }
    /// Bytes of a token as the panels keep it: its bytes, scales and words if the format has scales, otherwise its row.
    public var keptByteCount: Int { payloadByteCount / blockTokens }

    public func keyPanelOffset(ofHead head: Int) -> Int { head * headByteCount }
    public func valuePanelOffset(ofHead head: Int) -> Int { head * headByteCount + keyPanelByteCount }

    /// The offset of a token in a K panel, in which some formats have several dimensions of a token side by side.
    func keyTokenOffset(_ token: Int) -> Int {
        let format = dcp_format(Int32(format.rawValue))
        return token * Int(format.element_bytes * format.interleaved)
    }
}
