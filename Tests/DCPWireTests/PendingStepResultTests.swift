// SPDX-License-Identifier: Apache-2.0

import DCPCore
import DCPTestKit
import DCPWire
import NIOCore
import Testing

@Suite("PendingStepResult")
struct PendingStepResultTests {
    private func bytes<Number>(_ numbers: [Number]) -> ByteBuffer {
        numbers.withUnsafeBytes { ByteBuffer(bytes: $0) }
    }

    @Test(
        "an answer that is written in pieces has the bytes of one that is made at once, its checksum among them",
        arguments: [[5], [1, 4], [2, 0, 3], []], [true, false])
    func pieces(rows: [Int], wantsLSE: Bool) throws {
        var generator = SeededGenerator.ofRun(salt: 31)
        let (heads, dim) = (rows.reduce(0, +), 6)
        let outputs = generator.floats(heads * dim, limit: 3)
        let lse = generator.floats(heads, limit: 9).map { Double($0) / 3 } + [-.infinity]
        var pending = PendingStepResult(tokens: 1, heads: heads, valueDim: dim, wantsLSE: wantsLSE)
        var first = 0
        for count in rows {
            pending.append(
                outputs: Array(outputs[first * dim..<(first + count) * dim]), lse: Array(lse[first..<first + count]))
            first += count
        }
        let whole = StepResult(
            tokens: 1, heads: heads, valueDim: dim, outputs: bytes(outputs),
            lse: wantsLSE ? bytes(lse.prefix(heads).map { Float($0) }) : nil)
        func encoded(_ message: Message) -> [UInt8] {
            Frame(epoch: Epoch(3), tag: Tag(client: ClientID(1), number: 2), sender: RankIndex(1), message: message)
                .encode().flatMap { Array($0.readableBytesView) }
        }
        #expect(
            encoded(.reply(pending.body)) == encoded(.reply(whole, to: StepRequest.self)),
            "seed \(SeededGenerator.seed)")
    }
}
