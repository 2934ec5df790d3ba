internal import DCPAttention

/// A sealed block that is in pieces in the store, put together in RAM. Nobody changes it.
final class AssembledBlock: Sendable {
    private let memory: MemoryBlock
    private let byteCount: Int
    private let account: ByteAccount

    /// - Parameter account: counts the bytes of those alive.
    init(_ memory: MemoryBlock, _ panels: PanelLayout, account: ByteAccount) {
        self.memory = memory
        self.account = account
        byteCount = panels.payloadByteCount
        account.add(byteCount)
    }

    var payload: UnsafeRawPointer { UnsafeRawPointer(memory.address) }

    deinit { account.add(-byteCount) }
}
