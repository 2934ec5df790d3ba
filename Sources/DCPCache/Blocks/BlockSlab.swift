// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// A piece of memory that blocks of one size are carved out of, released with the last block that refers to it.
///
/// Blocks of a page and more share mappings of whole huge pages: one fault then stands for 512, of which each costs a
/// microsecond or two in a virtual machine, and what a peak of use has taken goes back to the system. Smaller ones are
/// allocated one by one: malloc keeps what stands beside something that lives on. With 48 KiB, as SmolLM2 has them, that
/// was all but nothing of 1.6 GB.
///
/// @unchecked Sendable: constant but for `empty`, which `BlockPool` changes with its mutex held.
final class BlockSlab: @unchecked Sendable {
    /// Where its blocks are, 64-byte aligned.
    let addresses: [UInt]
    /// Those of them that have no memory behind them at the moment.
    var empty: [UInt] = []
    private let map: UnsafeMutableRawBufferPointer?

    static let hugePageByteCount = 2 << 20
    static let sharedByteCountMin = 4 << 10

    init(blockByteCount: Int) {
        if blockByteCount >= Self.sharedByteCountMin, let map = Self.map(blockByteCount: blockByteCount) {
            self.map = map.whole
            addresses = (0..<map.blocks).map { map.start + UInt($0 * blockByteCount) }
        } else {
            map = nil
            let block = UnsafeMutableRawPointer.allocate(
                byteCount: blockByteCount, alignment: BlockRecord.payloadAlignment)
            addresses = [UInt(bitPattern: block)]
        }
    }

    var isShared: Bool { map != nil }

    /// The fewest huge pages of which blocks leave at most an eighth unused.
    static func pages(blockByteCount: Int) -> Int {
        var pages = (blockByteCount + hugePageByteCount - 1) / hugePageByteCount
        while pages * hugePageByteCount % blockByteCount > pages * hugePageByteCount / 8 { pages += 1 }
        return pages
    }

    private static func map(
        blockByteCount: Int
    ) -> (whole: UnsafeMutableRawBufferPointer, start: UInt, blocks: Int)? {
        let byteCount = pages(blockByteCount: blockByteCount) * hugePageByteCount
        // One huge page more, to begin at a multiple of one; what is never touched takes no memory.
        let mapped = byteCount + hugePageByteCount
        guard let map = mmap(nil, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
            map != MAP_FAILED
        else { return nil }
        let page = UInt(hugePageByteCount)
        let start = (UInt(bitPattern: map) + page - 1) / page * page
        // Advice: without huge pages it is slower, not wrong.
        _ = madvise(UnsafeMutableRawPointer(bitPattern: start), byteCount, MADV_HUGEPAGE)
        return (UnsafeMutableRawBufferPointer(start: map, count: mapped), start, byteCount / blockByteCount)
    }

    /// Gives the memory of a block back to the system, but for what it shares pages with; the address stays its own.
    func releaseMemory(at address: UInt, byteCount: Int) {
        let page = UInt(sysconf(Int32(_SC_PAGESIZE)))
        let start = (address + page - 1) / page * page
        let end = (address + UInt(byteCount)) / page * page
        // A page may be larger than a block.
        guard start < end else { return }
        _ = madvise(UnsafeMutableRawPointer(bitPattern: start), Int(end - start), MADV_DONTNEED)
    }

    deinit {
        if let map {
            munmap(map.baseAddress, map.count)
        } else {
            UnsafeMutableRawPointer(bitPattern: addresses[0])?.deallocate()
        }
    }
}
