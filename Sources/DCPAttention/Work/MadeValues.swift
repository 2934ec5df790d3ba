// SPDX-License-Identifier: Apache-2.0

internal import CAttentionKernels
internal import DCPCore

/// A V panel for values that are the first dimensions of keys. It is made for some tokens of a KV head, in memory that
/// stays in a cache, and all tiles of a piece that need these values read it.
///
/// Kernels that read values out of K panels would save the transpose, about 3 % of the time with 128 rows, and need
/// twice the loops for each instruction set.
struct MadeValues: ~Copyable {
    private let layout: PanelLayout
    private let kernels: AttentionKernels
    private let memory: UnsafeMutableRawPointer
    /// Tokens that the panel holds.
    private let tokens: Int
    /// The tokens whose values it holds now.
    private var keys: UnsafeRawPointer?

    /// - Parameter tokens: the most at once.
    init(_ layout: PanelLayout, tokens: Int, _ kernels: AttentionKernels) {
        self.layout = layout
        self.kernels = kernels
        self.tokens = tokens
        memory = .allocate(byteCount: tokens * layout.valueDim * layout.format.elementByteCount, alignment: 64)
    }

    /// - Parameters:
    ///   - keys: the key of the first token, in a K panel.
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
