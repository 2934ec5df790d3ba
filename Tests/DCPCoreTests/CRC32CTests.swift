// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPTestKit
import Testing

@Suite("CRC-32C")
struct CRC32CTests {
    @Test("known answers: the check value, and those of RFC 3720 B.4")
    func knownAnswers() {
        func checksum(_ bytes: [UInt8]) -> UInt32 { bytes.withUnsafeBytes { CRC32C.checksum($0) } }
        #expect(checksum(Array("123456789".utf8)) == 0xe306_9283)
        #expect(checksum([]) == 0)
        #expect(checksum([UInt8](repeating: 0, count: 32)) == 0x8a91_36aa)
        #expect(checksum([UInt8](repeating: 0xff, count: 32)) == 0x62a8_ab43)
        #expect(checksum(Array(0..<32)) == 0x46dd_794e)
        #expect(checksum((0..<32).reversed()) == 0x113f_db5c)
    }

    // Three streams of 128 and of 1024 bytes lie side by side, and lines of 256 are folded from 512 on: lengths around those,
    // and one after the other.
    @Test("the instructions and the table agree on any alignment, in one piece or in two")
    func alignments() {
        var generator = SeededGenerator.ofRun(salt: 1)
        let bytes = (0..<7000).map { _ in UInt8(truncatingIfNeeded: generator.next()) }
        bytes.withUnsafeBytes { all in
            for start in 0..<9 {
                for count in Array(0..<70) + [383, 384, 385, 775, 1000, 3071, 3072, 3079, 3500, 6921] {
                    let some = UnsafeRawBufferPointer(rebasing: all[start..<start + count])
                    let whole = CRC32C.checksum(some)
                    #expect(whole == CRC32C.scalarChecksum(some))
                    var parts = CRC32C()
                    parts.update(UnsafeRawBufferPointer(rebasing: some[..<(count / 3)]))
                    parts.update(UnsafeRawBufferPointer(rebasing: some[(count / 3)...]))
                    #expect(parts.value == whole)
                }
            }
        }
        #expect(["vpclmulqdq", "sse4.2", "scalar"].contains(CRC32C.implementation))
    }

    @Test("the instructions and the table agree on every length up to 4,500 bytes, and continue from a previous sum")
    func lengths() {
        var generator = SeededGenerator.ofRun(salt: 2)
        let bytes = (0..<4500).map { _ in UInt8(truncatingIfNeeded: generator.next()) }
        bytes.withUnsafeBytes { all in
            // The table's, byte after byte: one pass has the checksums of all lengths.
            var expected: UInt32 = 0
            for count in 0...all.count {
                let some = UnsafeRawBufferPointer(rebasing: all[..<count])
                #expect(CRC32C.checksum(some) == expected, "\(count) bytes, seed \(SeededGenerator.seed)")
                guard count < all.count else { break }
                expected = CRC32C.scalarChecksum(UnsafeRawBufferPointer(rebasing: all[count...count]), after: expected)
            }
        }
    }
}
