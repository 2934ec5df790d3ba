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
        /// Shared slabs that have blocks without memory behind them.
        var partlyEmpty: [Int: [BlockSlab]] = [:]
        /// Of `ready`.
        var byteCount = 0

        /// Takes a block that gets its memory when it is written to.
        mutating func takeEmpty(byteCount: Int) -> BlockPlace? {
            guard let slab = partlyEmpty[byteCount]?.last, let address = slab.empty.popLast() else { return nil }
            if slab.empty.isEmpty { partlyEmpty[byteCount]?.removeLast() }
            return BlockPlace(address: address, slab: slab)
        }

        /// A slab of which all blocks are empty is unmapped, and its successor has huge pages again.
        mutating func giveEmpty(_ place: BlockPlace, byteCount: Int) {
            let slab = place.slab
            if slab.empty.isEmpty { partlyEmpty[byteCount, default: []].append(slab) }
            slab.empty.append(place.address)
            // Once for each slab: among a thousand for each 2 GiB that are given back.
            if slab.empty.count == slab.addresses.count { partlyEmpty[byteCount]?.removeAll { $0 === slab } }
        }
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
            if let place = spare.takeEmpty(byteCount: byteCount) { return place }
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
            spare.giveEmpty(place, byteCount: byteCount)
        }
    }
}
