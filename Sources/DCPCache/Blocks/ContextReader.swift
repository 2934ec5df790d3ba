// SPDX-License-Identifier: Apache-2.0

public import DCPAttention
public import DCPCore
internal import DCPStore
internal import Synchronization

/// Tokens of one rank and layer, readable in place for as long as this object lives.
///
/// Why the addresses stay valid without a lock. The reader's transaction begins *before* the addresses are looked up,
/// and a deletion takes addresses out of the index *before* its transaction commits. So an address that was found
/// belongs to a value that no transaction had deleted when this one began, and that only a later one can delete. LMDB
/// does not reuse pages freed by a transaction while a reader older than it lives, and the pages of a large value never
/// move while the value lives. A block that was sealed after this transaction began is safe for the same reason: its
/// pages can only be freed by a still later one. Blocks in RAM are held by reference, and so are those that are in pieces in
/// the store and were put together in RAM.
///
/// Hold it for one step, not longer: as long as it lives, no page freed since can be reused and the file grows.
///
/// @unchecked Sendable: nothing changes after `init` but the lease counts, which are atomic.
public final class ContextReader: @unchecked Sendable {
    /// Each block's payload in `layout`, 64-byte aligned. All are full but the last.
    public let blocks: [UnsafeRawPointer]
    /// The first block's first token.
    public let firstIndex: LocalIndex
    /// Local tokens in the blocks. Places past them in the last block hold zeros, stale finite values of tokens appended since, or
    /// bytes being written: mask them by selection, not by multiplication.
    public let tokens: Int
    /// The tokens in the blocks.
    public var local: Range<LocalIndex> { firstIndex..<firstIndex + tokens }
    public let layout: PanelLayout
    private let memory: [MemoryBlock]
    private let assembled: [AssembledBlock]
    private let snapshot: Snapshot
    private let account: ByteAccount

    /// - Parameters:
    ///   - sealed: the payloads of sealed blocks, in the map or of `assembled`.
    ///   - memory: already leased; this object ends the leases.
    ///   - account: counts the readers alive.
    init(
        sealed: [UnsafeRawPointer], assembled: [AssembledBlock], memory: [MemoryBlock], firstIndex: LocalIndex,
        tokens: Int, layout: PanelLayout, snapshot: Snapshot, account: ByteAccount
    ) {
        blocks = sealed + memory.map { UnsafeRawPointer($0.address) }
        self.assembled = assembled
        self.firstIndex = firstIndex
        self.tokens = tokens
        self.layout = layout
        self.memory = memory
        self.snapshot = snapshot
        self.account = account
        account.add(1)
    }

    deinit {
        account.add(-1)
        for block in memory { block.leases.subtract(1, ordering: .releasing) }
    }
}

/// A read transaction that the contexts of one step share.
///
/// @unchecked Sendable: the transaction is never used after `init`, only ended, by whichever thread lets go last, which
/// `MDB_NOTLS` allows.
final class Snapshot: @unchecked Sendable {
    private let transaction: ReadTransaction

    init(_ transaction: consuming ReadTransaction) { self.transaction = transaction }
}
