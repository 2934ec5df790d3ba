// SPDX-License-Identifier: Apache-2.0

import DCPAttention
import DCPCore
import DCPRank
import DCPTestKit
import Dispatch
import Synchronization
import Testing

@Suite("attention of a step whose entries share blocks", .timeLimit(.minutes(1)))
struct SharedStepTests {
    @Test("on threads each entry gets the bits that it has in a separate step, in any batch", arguments: [1, 3])
    func batches(threads: Int) throws {
        var random = SeededGenerator(seed: SeededGenerator.seed)
        let attention = try LayerAttention(
            queryHeads: 8, kvHeads: 2, keyDim: 64, values: .own(64), scale: 0.125)
        let layout = PanelLayout(attention, .bfloat16, kvHeads: 2, blockTokens: 64)
        func panels(_ tokens: Int) -> TestPanels {
            TestPanels(
                layout: layout, keys: random.floats(tokens * 128, limit: 1),
                values: random.floats(tokens * 128, limit: 1),
                tokens: tokens)
        }
        let prefix = panels(4096)
        // Three forks, one that is short, and one that shares nothing.
        let owns = [70, 64, 2000, 9, 5000].map(panels)
        let contexts = owns.enumerated().map { place, own in
            let shared = place < 3 ? prefix.blocks : .empty(layout: layout)
            return KVBlocks(
                layout: layout, blocks: shared.blocks + own.blocks.blocks, tokens: shared.tokens + own.blocks.tokens)
        }
        // A token of each, all heads of one after the other.
        let queries = (0..<5).map { _ in random.floats(8 * 64, limit: 4) }
        let pool = ComputePool(threads: threads)
        /// Rows `[heads][batch]` of some entries.
        func states(_ batch: [Int]) throws -> AttentionStates {
            var numbers: [Float] = []
            for head in 0..<8 {
                for entry in batch { numbers += queries[entry][head * 64..<(head + 1) * 64] }
            }
            let rows = QueryRows(heads: 0..<8, tokens: batch.count, keyDim: 64, values: numbers)
            let job = AttentionJob(entries: batch.count, rows: 8 * batch.count, valueDim: 64, owners: []) { place in
                let blocks = contexts[batch[place]]
                return AttentionJob.Entry(
                    AttentionWork(
                        attention: attention, partition: HeadPartition(queryHeads: 8, kvHeads: 2, contextRanks: 1),
                        heads: 0..<8, queries: rows, tokens: place..<place + 1,
                        visible: .all(count: 1, of: blocks.tokens), over: blocks))
            }
            let answer = Answer()
            pool.attend(in: .decode, isCancelled: { false }, prepare: { job }, completion: { answer.finish($0) })
            return try answer.wait()
        }
        let alone = try (0..<5).map { try states([$0]) }
        for batch in [[0, 1], [4, 2, 0, 3, 1], [1, 2], [0, 1, 2, 3, 4]] {
            let together = try states(batch)
            for (place, entry) in batch.enumerated() {
                for head in 0..<8 {
                    #expect(
                        together.slice(rows: head * batch.count + place..<head * batch.count + place + 1)
                            == alone[entry].slice(rows: head..<head + 1),
                        "entry \(entry) of \(batch); DCP_SEED=\(SeededGenerator.seed)")
                }
            }
        }
        withExtendedLifetime((prefix, owns)) {}
        try pool.shutDownAndWait()
    }

    private final class Answer: Sendable {
        private let result = Mutex<Result<AttentionResult, ServiceError>?>(nil)
        private let isOver = DispatchSemaphore(value: 0)

        func finish(_ result: Result<AttentionResult, ServiceError>) {
            self.result.withLock { $0 = result }
            isOver.signal()
        }

        func wait() throws -> AttentionStates {
            isOver.wait()
            return try result.withLock { try $0!.get().states }
        }
    }
}
