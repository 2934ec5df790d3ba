internal import Synchronization

/// The memory of blocks in RAM. What blocks give back is kept for later ones: fresh memory costs a page fault for every
/// page, together more than writing the block.
///
/// @unchecked Sendable: an address is in the list of one size only while nobody uses its memory, and the list is only
/// touched with the mutex held.
final class BlockPool: @unchecked Sendable {
    /// Bytes of the blocks in use.
    let account = ByteAccount()
    private let spareByteCountMax: Int
    private let spare = Mutex(Spare())

    private struct Spare {
        /// By size in bytes, last in first out: what was used last may still be in a cache.
        var addresses: [Int: [UInt]] = [:]
        var byteCount = 0
    }

    init(spareByteCountMax: Int) { self.spareByteCountMax = spareByteCountMax }

    /// Bytes that are kept for reuse.
    var spareByteCount: Int { spare.withLock { $0.byteCount } }

    /// - Returns: 64-byte aligned memory, its content unspecified.
    func take(byteCount: Int) -> UnsafeMutableRawPointer {
        account.add(byteCount)
        let address = spare.withLock { spare -> UInt? in
            guard let address = spare.addresses[byteCount]?.popLast() else { return nil }
            spare.byteCount -= byteCount
            return address
        }
        if let address, let pointer = UnsafeMutableRawPointer(bitPattern: address) { return pointer }
        return .allocate(byteCount: byteCount, alignment: BlockRecord.payloadAlignment)
    }

    func give(_ pointer: UnsafeMutableRawPointer, byteCount: Int) {
        account.add(-byteCount)
        let isKept = spare.withLock { spare in
            guard spare.byteCount + byteCount <= spareByteCountMax else { return false }
            spare.byteCount += byteCount
            spare.addresses[byteCount, default: []].append(UInt(bitPattern: pointer))
            return true
        }
        if !isKept { pointer.deallocate() }
    }

    deinit {
        spare.withLock { spare in
            for address in spare.addresses.values.joined() {
                UnsafeMutableRawPointer(bitPattern: address)?.deallocate()
            }
        }
    }
}
