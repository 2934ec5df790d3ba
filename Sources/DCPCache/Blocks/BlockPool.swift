// SPDX-License-Identifier: Apache-2.0

internal import Synchronization

/// A block's memory, and what keeps it mapped.
struct BlockPlace: Sendable {
    let address: UInt
    let slab: BlockSlab

    var pointer: UnsafeMutableRawPointer {
        guard let pointer = UnsafeMutableRawPointer(bitPattern: address) else {
            preconditionFailure("A slab has no block at 0.")
        }
        return pointer
    }
}

/// The memory of blocks in RAM. Freed memory is kept for reuse, because page faults of fresh memory cost more than
/// writing the block.
final class BlockPool: Sendable {
    /// Bytes of the blocks in use.
    let account = ByteAccount()
    private let spareByteCountMax: Int
    private let spare = Mutex(Spare())

    /// Places that no block uses, by size in bytes.
    private struct Spare {
        /// Last in, first out: what was used last may still be in a cache.
        var ready: [Int: [BlockPlace]] = [:]
        /// In shared slabs, without memory behind them.
        var empty: [Int: [BlockPlace]] = [:]
        /// Of `ready`.
        var byteCount = 0
    }

    init(spareByteCountMax: Int) { self.spareByteCountMax = spareByteCountMax }

    /// Bytes that are kept for reuse, with those of slabs that have not been touched yet.
    var spareByteCount: Int { spare.withLock { $0.byteCount } }

    /// - Returns: 64-byte aligned memory, its content unspecified.
    func take(byteCount: Int) -> BlockPlace {
        account.add(byteCount)
        return spare.withLock { spare in
            if let place = spare.ready[byteCount]?.popLast() {
                spare.byteCount -= byteCount
                return place
            }
            if let place = spare.empty[byteCount]?.popLast() {
                place.slab.empty -= 1
                return place
            }
            let slab = BlockSlab(blockByteCount: byteCount)
            let places = slab.addresses.reversed().map { BlockPlace(address: $0, slab: slab) }
            spare.ready[byteCount, default: []] += places.dropLast()
            spare.byteCount += (places.count - 1) * byteCount
            return places[places.count - 1]
        }
    }

    func give(_ place: BlockPlace, byteCount: Int) {
        account.add(-byteCount)
        spare.withLock { spare in
            if spare.byteCount + byteCount <= spareByteCountMax {
                spare.byteCount += byteCount
                spare.ready[byteCount, default: []].append(place)
                return
            }
            // A slab of one block goes with its last reference.
            guard place.slab.isShared else { return }
            place.slab.releaseMemory(at: place.address, byteCount: byteCount)
            place.slab.empty += 1
            spare.empty[byteCount, default: []].append(place)
            // All its blocks are in this list: without them it is unmapped, and its successor has huge pages again.
            if place.slab.empty == place.slab.addresses.count {
                spare.empty[byteCount]?.removeAll { $0.slab === place.slab }
            }
        }
    }
}
