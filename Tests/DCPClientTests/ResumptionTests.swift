import DCPClient
import DCPCore
import DCPWire
import Testing

@Suite("Resumption: what is rewound after a failure")
struct ResumptionTests {
    private func progress(_ ranks: (committed: Int, layers: [Int])...) -> SequenceProgress {
        SequenceProgress(
            ranks.enumerated().map { index, rank in
                (
                    RankIndex(UInt16(index)),
                    SequenceStatus(
                        sequence: SequenceID(1), committedLength: rank.committed, layerLengths: rank.layers,
                        localTokens: 0)
                )
            })
    }

    private func lengths(_ action: Resumption.Action) -> [Int]? {
        if case .rewind(let lengths) = action { return lengths }
        return nil
    }

    @Test("each layer to what every rank has, also when all have the same; then it is settled")
    func shortest() throws {
        var uneven = Resumption(atMost: nil)
        #expect(lengths(uneven.next(progress((3, [9, 8]), (5, [7, 9])))) == [7, 8])
        let after = progress((5, [7, 8]), (5, [7, 8]))
        guard case .settled(let settled) = uneven.next(after) else {
            Issue.record("not settled")
            return
        }
        #expect(settled == after)
        var even = Resumption(atMost: nil)
        #expect(lengths(even.next(after)) == [7, 8])
    }

    @Test("no more than the client has answers for, and no less than is committed")
    func bounds() {
        var some = Resumption(atMost: [6, 20])
        #expect(lengths(some.next(progress((5, [7, 9]), (5, [8, 9])))) == [6, 9])
        var committed = Resumption(atMost: [2, 2])
        #expect(lengths(committed.next(progress((5, [7, 9])))) == [5, 5])
    }

    @Test("lengths that differ after three rewinds are another client's doing")
    func unsettled() {
        var resumption = Resumption(atMost: nil)
        for round in 1...3 {
            #expect(lengths(resumption.next(progress((0, [round]), (0, [round + 1])))) == [round])
        }
        guard case .unsettled = resumption.next(progress((0, [4]), (0, [5]))) else {
            Issue.record("it goes on")
            return
        }
    }
}
