// SPDX-License-Identifier: Apache-2.0

internal import CAttentionKernels
internal import DCPCore

/// Values that are the first dimensions of keys, as the V panel that kernels read: made for some tokens of a KV head, in
/// memory that stays in a cache, and read by all tiles of a piece that share them.
///
/// What kernels would save by a form of their own is the transpose, some 3 % of the time with 128 rows; each instruction set
/// would need twice the loops.
struct MadeValues: ~Copyable {
    private let layout: PanelLayout
    private let kernels: AttentionKernels
    private let memory: UnsafeMutableRawPointer
    /// Of the panel.
    private let tokens: Int
    /// Whose values are there.
    private var keys: UnsafeRawPointer?

    /// - Parameter tokens: at most so many at once.
    init(_ layout: PanelLayout, tokens: Int, _ kernels: AttentionKernels) {
        self.layout = layout
        self.kernels = kernels
        self.tokens = tokens
        memory = .allocate(byteCount: tokens * layout.valueDim * layout.format.elementByteCount, alignment: 64)
    }

    /// - Parameters:
    ///   - keys: of the first of the tokens, in a K panel.
    ///   - tokens: a multiple of 16.
    mutating func values(of keys: UnsafeRawPointer, tokens: Int) -> UnsafeRawPointer {
        if keys != self.keys {
            dcp_values_of_keys(
                kernels.table, Int32(layout.format.rawValue), keys, Int64(layout.blockTokens), Int64(layout.valueDim),
                Int64(tokens), memory, Int64(self.tokens))
            self.keys = keys
        }
        return UnsafeRawPointer(memory)
    }

    deinit { memory.deallocate() }
}
