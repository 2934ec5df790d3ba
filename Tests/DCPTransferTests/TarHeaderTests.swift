// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPTransfer
import Testing

@Suite("Tar: headers of a backup's files")
struct TarHeaderTests {
    private let header = TarHeader(name: "rank-0.mdb", byteCount: 57_344, modified: 1_795_000_000, user: 1000, group: 0)

    @Test("a header is one block of POSIX ustar, which is read as it was written")
    func plain() throws {
        let block = header.encoded()
        #expect(block.count == 512)
        #expect(Array(block[257..<265]) == Array("ustar\u{0}00".utf8))
        #expect(Array(block[124..<136]) == Array("00000160000\u{0}".utf8))
        #expect(try TarHeader(block) == header)
    }

    @Test("a size that eleven octal digits do not hold is in a pax record before it")
    func large() throws {
        for byteCount in [0o777_7777_7777, 0o777_7777_7777 + 1, 10_000_000_000, 1 << 45] {
            var large = header
            large.byteCount = byteCount
            let blocks = large.encoded()
            guard byteCount > 0o777_7777_7777 else {
                #expect(try TarHeader(blocks) == large)
                continue
            }
            try #require(blocks.count == 3 * 512)
            let pax = try TarHeader(Array(blocks[..<512]))
            #expect(pax.kind == .pax)
            var read = try TarHeader(Array(blocks[1024...]))
            try read.apply(pax: Array(blocks[512..<512 + pax.byteCount]))
            #expect(read == large)
        }
        // As POSIX has it: the record's own length in front, in which its digits count.
        var large = header
        large.byteCount = 10_000_000_000
        #expect(Array(large.encoded()[512..<532]) == Array("20 size=10000000000\n".utf8))
    }

    @Test("a header with a flipped bit anywhere is refused, and so is what is none")
    func damaged() throws {
        let block = header.encoded()
        for bit in 0..<512 * 8 {
            var damaged = block
            damaged[bit / 8] ^= 1 << UInt8(bit % 8)
            // Where the sum itself is written a digit may become the blank that ends it, and no other number.
            guard let read = try? TarHeader(damaged) else { continue }
            #expect(read == header && (148..<156).contains(bit / 8), "bit \(bit)")
        }
        #expect(throws: ServiceError.self) { try TarHeader([UInt8](repeating: 0xFF, count: 512)) }
    }

    @Test(
        "pax records that are none are refused",
        arguments: ["size=5\n", "999 size=5\n", "9 size=x\n", "10 size=-1\n", "28 size=9223372036854775807\n", "x"])
    func badPax(_ record: String) {
        var read = header
        #expect(throws: ServiceError.self) { try read.apply(pax: Array(record.utf8)) }
    }
}
