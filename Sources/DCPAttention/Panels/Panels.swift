// SPDX-License-Identifier: Apache-2.0

internal import CAttentionKernels
public import DCPCore

/// Row-major keys and values of a step, for the KV heads of one head group.
///
/// Borrowed memory, valid as long as its owner says. Unaligned.
public struct KeyValueRows {
    public let dataType: DataType
    /// `[kvHeads][tokens][Dk]`
    public let keys: UnsafeRawPointer
    /// `[kvHeads][tokens][Dv]`; not read if the layout's keys hold the values.
    public let values: UnsafeRawPointer
    public let tokens: Int

    public init(dataType: DataType, keys: UnsafeRawPointer, values: UnsafeRawPointer, tokens: Int) {
        self.dataType = dataType
        self.keys = keys
        self.values = values
        self.tokens = tokens
    }
}

extension PanelLayout {
    private var shape: dcp_panel_shape {
        dcp_panel_shape(
            format: Int32(format.rawValue), kv_heads: Int32(kvHeads), key_dim: Int32(keyDim),
            value_dim: Int32(ownValueDim), block_tokens: Int32(blockTokens))
    }

    /// Rounds rows to the cache format, nearest and ties to even, and writes them into a block's panels.
    ///
    /// Touches only the bytes of those tokens: other threads may read the block's other tokens meanwhile.
    ///
    /// - Parameters:
    ///   - rowTokens: for each token to write, its index in `rows`.
    ///   - payload: `payloadByteCount` bytes, 64-byte aligned.
    ///   - token: the block's token that receives the first of them.
    ///   - isReadSoon: false for many tokens that nothing reads next: whole cache lines then bypass the caches, which
    ///     saves reading them before they are written.
    /// - Returns: false when a value is not finite in the cache format; the tokens then hold unspecified values.
    public func write(
        _ rows: KeyValueRows, rowTokens: UnsafeBufferPointer<UInt32>, into payload: UnsafeMutableRawPointer,
        at token: Int, isReadSoon: Bool = true, kernels: AttentionKernels = .chosen
    ) -> Bool {
        precondition(token >= 0 && token + rowTokens.count <= blockTokens)
        precondition(rowTokens.allSatisfy { Int($0) < rows.tokens })
        guard let sources = rowTokens.baseAddress else { return true }
        return withUnsafePointer(to: shape) { shape in
            dcp_panel_write(
                kernels.table, shape, Int32(rows.dataType.rawValue), rows.keys, rows.values, Int64(rows.tokens),
                sources, Int64(rowTokens.count), payload, Int64(token), isReadSoon ? 0 : 1) == 0
        }
    }

    /// The same for an array.
    public func write(
        _ rows: KeyValueRows, rowTokens: [UInt32], into payload: UnsafeMutableRawPointer, at token: Int
    ) -> Bool {
        rowTokens.withUnsafeBufferPointer { write(rows, rowTokens: $0, into: payload, at: token) }
    }

    /// Copies a token from a block's panels as they keep it: `keptByteCount` bytes.
    public func take(token: Int, of payload: UnsafeRawPointer, into kept: UnsafeMutableRawPointer) {
        precondition((0..<blockTokens).contains(token))
        guard format.hasScales else { return read(token: token, of: payload, into: kept) }
        withUnsafePointer(to: shape) { dcp_packed_read($0, payload, Int64(token), kept) }
    }

    /// Writes a token that `take` copied from a block of the same shape to each of some tokens. Touches only their
    /// bytes.
    public func put(_ kept: UnsafeRawPointer, into payload: UnsafeMutableRawPointer, at tokens: Range<Int>) {
        precondition(tokens.lowerBound >= 0 && tokens.upperBound <= blockTokens)
        guard format.hasScales else {
            let rows = KeyValueRows(
                dataType: format.rowType, keys: kept, values: kept + kvHeads * keyDim * format.rowType.byteCount,
                tokens: 1)
            // Numbers that are not finite are copied, too.
            _ = write(
                rows, rowTokens: [UInt32](repeating: 0, count: tokens.count), into: payload, at: tokens.lowerBound)
            return
        }
        withUnsafePointer(to: shape) {
            for token in tokens { dcp_packed_write($0, kept, payload, Int64(token)) }
        }
    }

    /// Reads a token back from a block's panels: `rowByteCount` bytes, in the format's row type.
    public func read(token: Int, of payload: UnsafeRawPointer, into row: UnsafeMutableRawPointer) {
        precondition((0..<blockTokens).contains(token))
        read(
            tokens: token..<token + 1, of: payload, keys: row, values: row + kvHeads * keyDim * format.rowType.byteCount
        )
    }

    /// Reads some tokens back, in the format's row type.
    ///
    /// Other threads may write the block's other tokens meanwhile.
    /// - Parameters:
    ///   - keys: `[tokens][kvHeads][Dk]`
    ///   - values: `[tokens][kvHeads][Dv]`; not touched if keys hold the values.
    public func read(
        tokens: Range<Int>, of payload: UnsafeRawPointer, keys: UnsafeMutableRawPointer,
        values: UnsafeMutableRawPointer, kernels: AttentionKernels = .chosen
    ) {
        precondition(tokens.lowerBound >= 0 && tokens.upperBound <= blockTokens)
        withUnsafePointer(to: shape) {
            dcp_panel_read(kernels.table, $0, payload, Int64(tokens.lowerBound), Int64(tokens.count), keys, values)
        }
    }
}
