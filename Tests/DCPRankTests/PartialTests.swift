// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCore
import DCPRank
import DCPTestKit
import Testing

@Suite("Partial: states on their way to the rank that owns their heads")
struct PartialTests {
    @Test("cut some rows at a time or at once they are the slices of each rank, bit for bit", arguments: [1, 2, 4])
    func cut(ranks: Int) throws {
        let test = StepCase(ranks: ranks, queryHeads: 6, kvHeads: 2)
        let plan = try test.plan(ofRank: 0)
        let states = test.context(ofRank: 2, [test.queries(ofRank: 0)])
        guard case .cut(let atOnce) = plan.cut(states) else { return #expect(Bool(false), "whole for all-to-all") }
        #expect(atOnce.map { bits($0.states) } == (0..<ranks).map { bits(states.slice(rows: plan.rows(ofRank: $0))) })
        for outputsMax in [1, 20, 50] {
            var cut = plan.partialCut(of: states)
            var turns = 1
            var partials = cut.advance(outputsMax: outputsMax)
            while partials == nil {
                partials = cut.advance(outputsMax: outputsMax)
                turns += 1
            }
            #expect(partials == atOnce)
            let rowsAtOnce = max(1, outputsMax / StepCase.valueDim)
            #expect(turns == (states.rows + rowsAtOnce - 1) / rowsAtOnce)
        }
    }
}
