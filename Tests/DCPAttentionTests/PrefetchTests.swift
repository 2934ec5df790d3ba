// SPDX-License-Identifier: Apache-2.0

import CAttentionKernels
import DCPAttention
import DCPCore
import DCPTestKit
import Testing

@Suite("prefetch")
struct PrefetchTests {
    @Test("a result has the same bits however much is prefetched into which cache", arguments: Variant.all)
    func bits(variant: Variant) throws {
        // Blocks of 16 and 2 KiB: distances end in the block at hand, in the next, and beyond it.
        for (kvHeads, keyDim, count, length) in [(1, 64, 1, 1000), (3, 128, 2, 700), (2, 16, 9, 300)] {
            var problem = AttentionCase(
                format: variant.format, kvHeads: kvHeads, keyDim: keyDim, valueDim: keyDim, count: count,
                length: length, kernels: variant.kernels)
            let inputs = problem.inputs()
            let expected = try problem.states(inputs)
            for prefetch in ["none", "first:1", "first:1024", "second", "second:1", "second:1024"] {
                problem.prefetch = PrefetchTable(try #require(Prefetch(prefetch)))
                #expect(try problem.states(inputs) == expected, "\(prefetch), \(problem)")
            }
        }
    }

    @Test("words for ways to prefetch, and what is none")
    func words() {
        for text in ["first", "first:12", "second:32", "second:1024", "none"] {
            #expect(Prefetch(text)?.description == text)
        }
        #expect(Prefetch("second")?.description == "second:32")
        for text in ["", "third", "second:", "second:0", "second:1025", "second:x", "none:8", "second:8:8", "Second"] {
            #expect(Prefetch(text) == nil, "\(text)")
        }
    }

    @Test(
        "trials try every way with each kind of work, choose the fastest, and the table has it", .timeLimit(.minutes(1))
    )
    func trials() throws {
        var trials = try PrefetchTrials.run()
        guard PrefetchTrials.areUseful() else { return #expect(trials.trials.isEmpty) }
        // On a loaded machine the time limit may end the trials early: each further run goes on where the last one ended.
        while !trials.areComplete {
            let more = try PrefetchTrials.run(after: trials)
            try #require(more.trials.count > trials.trials.count)
            #expect(Array(more.trials.prefix(trials.trials.count)) == trials.trials)
            trials = more
        }
        #expect(try PrefetchTrials.run(after: trials) == trials)
        try #require(trials.trials.count == PrefetchTable.Work.tried.count)
        for (trial, work) in zip(trials.trials, PrefetchTable.Work.tried) {
            #expect(trial.format == work.format && trial.rows == work.rows)
            #expect(Set(trial.gigabytesPerSecond.keys) == Set(Prefetch.candidates))
            let fastest = trial.gigabytesPerSecond.values.max()
            #expect(trial.gigabytesPerSecond[trial.chosen] == fastest)
            #expect(trials.table[work] == trial.chosen)
        }
        #expect(try PrefetchTrials.run(.named("scalar")).trials.isEmpty)
    }

    @Test("rows of a tile prefetch no further than the next block, and as their dtype and number say")
    func table() throws {
        var table = PrefetchTable()
        let layout = PanelLayout(format: .bfloat16, kvHeads: 1, keyDim: 64, valueDim: 64, blockTokens: 64)
        var rows = dcp_attention_rows()
        (rows.rows, rows.key_dim, rows.value_dim, rows.terms) = (4, 64, 64, 1)
        func ahead(_ layout: PanelLayout) -> String {
            table.ahead(rows, .chosen, layout, blockByteCount: 16 << 10).map { "\($0.level) \($0.byteCount)" } ?? "-"
        }
        #expect(ahead(layout).hasPrefix("1 "))
        table[PrefetchTable.Work(.bfloat16, rows: 3)] = Prefetch(.second, byteCount: 32 << 10)
        table[PrefetchTable.Work(.bfloat16, rows: 5)] = Prefetch(.none)
        #expect(ahead(layout) == "2 \(16 << 10)")
        rows.rows = 5
        #expect(ahead(layout) == "-")
        let other = PanelLayout(format: .float16, kvHeads: 1, keyDim: 64, valueDim: 64, blockTokens: 64)
        #expect(ahead(other).hasPrefix("1 "))
    }
}
