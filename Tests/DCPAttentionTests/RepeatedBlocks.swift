// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCore
import DCPTestKit
import Glibc
import Testing

/// A context whose blocks are the same memory many times over. Its attention is that of the memory once; the log-sum-exp is
/// greater by the logarithm of the number.
struct RepeatedBlocks {
    let problem: AttentionCase
    let inputs: AttentionCase.Inputs
    let panels: TestPanels
    let copies: Int

    /// - Parameter problem: its length is a multiple of its blocks.
    init(_ problem: AttentionCase, _ inputs: AttentionCase.Inputs, copies: Int) {
        precondition(problem.length % problem.blockTokens == 0 && !problem.causal)
        self.problem = problem
        self.inputs = inputs
        self.copies = copies
        panels = TestPanels(
            layout: problem.layout, keys: inputs.keys, values: inputs.values, tokens: problem.length)
    }

    func work() throws -> AttentionWork {
        AttentionWork(
            attention: try problem.attention(), partition: problem.partition, heads: 0..<problem.queryHeads,
            queries: problem.queryRows(inputs), tokens: 0..<problem.count,
            visible: .all(count: problem.count, of: problem.length * copies),
            over: KVBlocks(
                layout: problem.layout, blocks: (0..<copies).flatMap { _ in panels.blocks.blocks },
                tokens: problem.length * copies),
            kernels: problem.kernels)
    }

    func states() throws -> AttentionStates {
        let work = try work()
        for piece in 0..<work.pieceCount { work.run(piece: piece) }
        var states = AttentionStates.empty(rows: problem.queryHeads * problem.count, valueDim: problem.valueDim)
        withExtendedLifetime(panels) { work.finish(into: &states) }
        return states
    }

    func reference() throws -> ReferenceAttention.Result {
        var result = try problem.reference(inputs)
        for row in result.lse.indices { result.lse[row] += log(Double(copies)) }
        return result
    }
}
