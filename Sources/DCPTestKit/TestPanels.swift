// SPDX-License-Identifier: Apache-2.0

public import DCPAttention
internal import DCPCore

/// Blocks of panels made from token-major rows, for tests. Memory beyond the tokens is poison.
///
/// `@unchecked Sendable`: written in `init` only.
public final class TestPanels: @unchecked Sendable {
    public let blocks: KVBlocks
    private let memory: UnsafeMutableRawPointer

    /// - Parameters:
    ///   - keys: `[tokens][kvHeads][keyDim]`; rounded to the layout's dtype.
    ///   - values: `[tokens][kvHeads][valueDim]`; none where keys hold them.
    ///   - poison: the byte that fills unused memory; 0xFF makes NaN.
    public init(layout: PanelLayout, keys: [Float], values: [Float], tokens: Int, poison: UInt8 = 0xFF) {
        let count = (tokens + layout.blockTokens - 1) / layout.blockTokens
        let size = max(count * layout.payloadByteCount, 64)
        memory = .allocate(byteCount: size, alignment: 64)
        memory.initializeMemory(as: UInt8.self, repeating: poison, count: size)
        blocks = KVBlocks(
            layout: layout,
            blocks: (0..<count).map { [memory] in UnsafeRawPointer(memory + $0 * layout.payloadByteCount) },
            tokens: tokens)
        let keys = RowOrder.headMajor(keys, tokens: tokens, heads: layout.kvHeads, dim: layout.keyDim)
        let values = RowOrder.headMajor(values, tokens: tokens, heads: layout.kvHeads, dim: layout.ownValueDim)
        keys.withUnsafeBytes { keys in
            values.withUnsafeBytes { values in
                guard let keys = keys.baseAddress else { return }
                let rows = KeyValueRows(
                    dataType: .float32, keys: keys, values: values.baseAddress ?? keys, tokens: tokens)
                for block in 0..<count {
                    let first = block * layout.blockTokens
                    let some = (first..<min(first + layout.blockTokens, tokens)).map { UInt32($0) }
                    let isFinite = layout.write(
                        rows, rowTokens: some, into: memory + block * layout.payloadByteCount, at: 0)
                    precondition(isFinite, "Test rows are finite.")
                }
            }
        }
    }

    deinit { memory.deallocate() }
}
