// SPDX-License-Identifier: Apache-2.0

import DCPBench
import DCPTestKit
import Testing

@Suite("ways of reading")
struct ReadWaysTests {
    /// A ceiling that skips bytes would be too high; one that reads some twice too low.
    @Test(
        "every way reads each word once, whatever the length",
        arguments: [64, 128, 448, 512, 576, 4096, 4160, 65536 + 192, 262_144, 262_144 - 64])
    func everyWord(byteCount: Int) {
        var random = SeededGenerator.ofRun(salt: UInt64(byteCount))
        let memory = UnsafeMutableRawPointer.allocate(byteCount: byteCount, alignment: 64)
        defer { memory.deallocate() }
        let words = memory.bindMemory(to: UInt64.self, capacity: byteCount / 8)
        for index in 0..<byteCount / 8 { words[index] = random.next() }
        let all = (0..<byteCount / 8).reduce(UInt64(0)) { $0 ^ words[$1] }
        #expect(ReadWays.count >= 1)
        for way in 0..<ReadWays.count {
            #expect(ReadWays.read(way, memory, byteCount: byteCount) == all, "\(ReadWays.name(way))")
        }
    }
}
