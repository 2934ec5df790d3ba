// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPWire
import Testing

@Suite("Resumption: what is rewound after a claim")
struct ResumptionTests {
    private func action(_ ranks: (committed: Int, layers: [Int])..., atMost lengthMax: Int? = nil) -> Resumption {
        let progress = SequenceProgress(
            ranks.enumerated().map { index, rank in
                (
                    RankIndex(UInt16(index)),
                    SequenceStatus(
                        sequence: SequenceID(1), committedLength: rank.committed, layerLengths: rank.layers,
                        localTokens: 0)
                )
            })
        return Resumption(of: progress, atMost: lengthMax)
    }

    @Test("to what every rank has of all layers")
    func shortest() {
        #expect(action((3, [9, 8]), (5, [7, 9])) == .rewind(7))
        #expect(action((3, [9, 7]), (5, [9, 7])) == .rewind(7))
        #expect(action((3, [7, 7]), (5, [7, 7])) == .settled)
        #expect(action((0, [0, 0]), (0, [0, 0])) == .settled)
    }

    @Test("at most the length that the client has answers for, and at least every rank's committed length")
    func bounds() {
        #expect(action((5, [8, 8]), (5, [8, 8]), atMost: 6) == .rewind(6))
        #expect(action((5, [8, 8]), (5, [8, 8]), atMost: 2) == .rewind(5))
        #expect(action((5, [8, 8]), (7, [8, 8]), atMost: 2) == .rewind(7))
        #expect(action((5, [8, 8]), (5, [8, 8]), atMost: 9) == .settled)
    }

    @Test(
        "tokens that one rank has committed and another has lost are cut by the directory, to the length that all have committed"
    )
    func lostCommit() {
        #expect(action((5, [5, 5]), (6, [6, 6])) == .truncate(5))
        #expect(action((4, [5, 5]), (6, [8, 8]), atMost: 3) == .truncate(4))
        // The other has the token still, and its next commit makes it equal.
        #expect(action((5, [6, 6]), (6, [6, 6])) == .settled)
    }
}
