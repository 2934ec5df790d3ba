// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCore
internal import Synchronization

/// Bytes in use of something, counted by many threads.
final class ByteAccount: Sendable {
    private let bytes = Atomic(0)

    var value: Int { bytes.load(ordering: .relaxed) }

    func add(_ count: Int) { bytes.wrappingAdd(count, ordering: .relaxed) }

    /// Adds unless the sum would exceed the limit.
    func add(_ count: Int, limit: Int) -> Bool {
        let (_, sum) = bytes.wrappingAdd(count, ordering: .relaxed)
        if count > 0, sum > limit {
            add(-count)
            return false
        }
        return true
    }
}

/// A block in RAM, in the layout of the store: the open block of a layer, or a full one that is not committed.
///
/// @unchecked Sendable: `address` never changes. Tokens are written with the layer's mutex held, each at most once
/// while a reader leases the block; readers only use tokens that were written before they took the mutex. So no byte is
/// written that a reader may use. A fork that borrows the block is such a reader.
final class MemoryBlock: @unchecked Sendable {
    /// `payloadByteCount` bytes, 64-byte aligned, zero where no token has been written.
    let address: UnsafeMutableRawPointer
    /// Readers that hold the block. Raised with the layer's mutex held; while it is 0 and the mutex is held, there are
    /// no readers.
    let leases = Atomic(0)
    private let memory: Memory

    private enum Memory {
        case owned(BlockPlace, byteCount: Int, BlockPool)
        /// Of another sequence's block, which has a lease on it.
        case borrowed(MemoryBlock)
    }

    enum Content {
        case zeros
        /// Whatever was there: the caller writes all tokens before anybody else sees the block.
        case unspecified
    }

    init(_ panels: PanelLayout, _ content: Content, pool: BlockPool) {
        let byteCount = panels.payloadByteCount
        let place = pool.take(byteCount: byteCount)
        address = place.pointer
        memory = .owned(place, byteCount: byteCount, pool)
        if content == .zeros { address.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount) }
    }

    /// The open block of a sequence, for a fork of it: to be read up to the fork's tokens, and copied before the fork writes.
    /// With the mutex of the layer held that has it.
    init(borrowing block: MemoryBlock) {
        // Not of a borrower, whose own end would end the lease.
        let owner = block.owner ?? block
        owner.leases.add(1, ordering: .acquiring)
        address = owner.address
        memory = .borrowed(owner)
    }

    private var owner: MemoryBlock? {
        guard case .borrowed(let owner) = memory else { return nil }
        return owner
    }

    /// Nobody writes to it.
    var isBorrowed: Bool { owner != nil }

    /// The first `tokens` tokens of another block, and zeros.
    convenience init(copying source: UnsafeRawPointer, tokens: Int, _ panels: PanelLayout, pool: BlockPool) {
        self.init(panels, .unspecified, pool: pool)
        address.copyMemory(from: source, byteCount: panels.payloadByteCount)
        clear(from: tokens, panels)
    }

    /// Zeroes the tokens from `token` on: what was dropped is never seen again, not even past a reader's count.
    func clear(from token: Int, _ panels: PanelLayout) {
        guard token < panels.blockTokens else { return }
        let zeros = [UInt8](repeating: 0, count: panels.keptByteCount)
        zeros.withUnsafeBytes { zeros in
            guard let row = zeros.baseAddress else { return }
            panels.put(row, into: address, at: token..<panels.blockTokens)
        }
    }

    deinit {
        switch memory {
        case .owned(let place, let byteCount, let pool): pool.give(place, byteCount: byteCount)
        case .borrowed(let owner): owner.leases.subtract(1, ordering: .releasing)
        }
    }
}

/// The address of a sealed block's payload in the map.
///
/// @unchecked Sendable: the memory is never written; users of the address hold a read transaction, by the rule in
/// `ContextReader`.
struct BlockAddress: @unchecked Sendable {
    /// nil for a block in pieces: these are looked up by their keys, and put together.
    let payload: UnsafeRawPointer?

    static let inPieces = BlockAddress()

    private init() { payload = nil }

    /// - Returns: nil when the value is not aligned or sized as a block of this layout is.
    init?(_ value: UnsafeRawBufferPointer, byteCount: Int) {
        guard value.count == byteCount, let base = value.baseAddress else { return nil }
        let payload = base + BlockRecord.headerByteCount
        self.payload = payload
        guard UInt(bitPattern: payload) % UInt(BlockRecord.payloadAlignment) == 0 else { return nil }
    }
}
