// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCore
import DCPTestKit
import Testing

@Suite("sinks")
struct SinkTests {
    @Test(
        "attention with sinks over any ranks, with and without windows, is that of dense attention",
        arguments: [1, 2, 3, 5, 8], Variant.all)
    func layouts(ranks: Int, variant: Variant) throws {
        var generator = SeededGenerator.ofRun(salt: 41)
        for (number, (kvHeads, group)) in [(1, 1), (2, 4), (3, 3), (1, 8)].enumerated() {
            for (context, count) in [(0, 1), (0, 9), (5, 1), (130, 7)] {
                var step = StepCase(
                    format: variant.format, ranks: ranks, interleave: [1, 16][number % 2], kvHeads: kvHeads,
                    group: group, visibility: number % 2 == 0 ? .window(20) : .all, context: context, count: count,
                    kernels: variant.kernels)
                step.sinks = generator.floats(step.heads, limit: 6)
                try step.check(salt: UInt64(number))
            }
        }
    }
}
