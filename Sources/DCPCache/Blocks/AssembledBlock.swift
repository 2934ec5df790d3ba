// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention

/// A sealed block that the store holds in pieces, assembled in RAM. Immutable.
final class AssembledBlock: Sendable {
    private let memory: MemoryBlock
    private let byteCount: Int
    private let account: ByteAccount
    /// It may stay in RAM when the step that needed it is over.
    let isKept: Bool

    /// - Parameters:
    ///   - budget: what may be kept, and how many bytes are; nil for a block that is not to be.
    ///   - borrowed: counts the bytes of the others.
    init(
        _ memory: MemoryBlock, _ panels: PanelLayout, budget: (kept: ByteAccount, byteCountMax: Int)?,
        borrowed: ByteAccount
    ) {
        self.memory = memory
        byteCount = panels.payloadByteCount
        if let budget, budget.kept.add(byteCount, limit: budget.byteCountMax) {
            (account, isKept) = (budget.kept, true)
        } else {
            (account, isKept) = (borrowed, false)
            borrowed.add(byteCount)
        }
    }

    var payload: UnsafeRawPointer { UnsafeRawPointer(memory.address) }

    deinit { account.add(-byteCount) }
}
