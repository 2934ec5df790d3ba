// SPDX-License-Identifier: Apache-2.0

internal import DCPCore

/// The space freed by closing sequences one after another: a block is freed with the last of its users.
struct ClosingOrder: Sendable {
    /// For each writer, the blocks freed with the sequence at a place of the order.
    private var blocks: [UInt64: [(place: Int, blocks: RangeSet<Int>)]] = [:]
    private let lineages: [Lineage?]
    /// Blocks, in each layer, that go with each sequence when all before it are closed.
    private(set) var blockCounts: [Int]

    init(_ order: [SequenceID], in table: LineageTable) {
        let places = Dictionary(order.enumerated().map { ($1, $0) }, uniquingKeysWith: { first, _ in first })
        lineages = order.map { table[$0] }
        blockCounts = [Int](repeating: 0, count: order.count)
        for writer in Set(lineages.flatMap { $0?.ranges.map(\.writer) ?? [] }) {
            // From the last one backwards: a block covered by a later sequence is not freed with an earlier one.
            // Sequences that stay count as the last.
            let users = (table.users[writer] ?? [:]).map { (place: places[$0.key] ?? .max, blocks: $0.value) }
            var covered = RangeSet<Int>()
            for user in users.sorted(by: { $0.place > $1.place }) {
                let own = RangeSet(user.blocks).subtracting(covered)
                guard !own.isEmpty else { continue }
                covered.formUnion(own)
                guard user.place < order.count else { continue }
                blocks[writer, default: []].append((user.place, own))
                blockCounts[user.place] += own.ranges.reduce(0) { $0 + $1.count }
            }
        }
    }

    /// Which of the first `count` have a part in what goes with them. The others share all they have with sequences that
    /// stay, or have nothing: sparing them frees as much.
    func useful(amongFirst count: Int) -> [Bool] {
        let gone = blocks.mapValues { parts in
            parts.filter { $0.place < count }.reduce(into: RangeSet<Int>()) { $0.formUnion($1.blocks) }
        }
        return lineages.prefix(count).map { lineage in
            lineage?.ranges.contains { writer, range in gone[writer].map { !$0.isDisjoint(RangeSet(range)) } ?? false }
                ?? false
        }
    }
}
