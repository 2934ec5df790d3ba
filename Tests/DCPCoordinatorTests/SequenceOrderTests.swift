// SPDX-License-Identifier: Apache-2.0

import DCPCoordinator
import DCPCore
import DCPTestKit
import Testing

@Suite("SequenceOrder: ids that come and go")
struct SequenceOrderTests {
    @Test("is a sorted set: the same ids, pages and equality, whatever came and went in whatever order")
    func set() {
        var random = SeededGenerator.ofRun(salt: 41)
        var order = SequenceOrder()
        var ids: Set<SequenceID> = []
        // Over three buckets and their edges; at the end most are removed again.
        let edges: [UInt64] = [1, 4095, 4096, 4097, 8191, 8192, 1 << 40, .max]
        for round in 0..<4000 {
            let isNew = Int.random(in: 0..<4, using: &random) < (round < 2000 ? 3 : 1)
            let number =
                Bool.random(using: &random)
                ? edges.randomElement(using: &random)! : .random(in: 1...9000, using: &random)
            let id = SequenceID(number)
            if isNew {
                order.insert(id)
                ids.insert(id)
            } else {
                order.remove(id)
                ids.remove(id)
            }
            guard round % 50 == 0 else { continue }
            let sorted = ids.sorted()
            #expect(Array(order) == sorted, "round \(round), DCP_SEED=\(SeededGenerator.seed)")
            let count = Int.random(in: 1...100, using: &random)
            var paged: [SequenceID] = []
            while true {
                let page = order.ids(after: paged.last ?? SequenceID(0), count: count)
                guard !page.isEmpty else { break }
                #expect(page.count == count || paged.count + page.count == sorted.count)
                paged += page
            }
            #expect(paged == sorted, "round \(round), DCP_SEED=\(SeededGenerator.seed)")
            var other = SequenceOrder()
            for id in sorted.shuffled(using: &random) { other.insert(id) }
            #expect(other == order)
        }
        for id in ids { order.remove(id) }
        #expect(order == SequenceOrder() && order.ids(after: SequenceID(0), count: 1).isEmpty)
    }
}
