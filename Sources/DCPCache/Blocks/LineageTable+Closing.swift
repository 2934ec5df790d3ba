internal import DCPCore

/// What closing sequences one after another frees: a block goes with the last of its users.
struct ClosingOrder: Sendable {
    /// Of each writer, the blocks that go with the sequence at a place of the order.
    private var blocks: [UInt64: [(place: Int, blocks: RangeSet<Int>)]] = [:]
    private let lineages: [Lineage?]
    /// Blocks, in each layer, that go with each sequence when all before it are closed.
    private(set) var blockCounts: [Int]

    init(_ order: [SequenceID], in table: LineageTable) {
        let places = Dictionary(order.enumerated().map { ($1, $0) }, uniquingKeysWith: { first, _ in first })
        lineages = order.map { table[$0] }
        blockCounts = [Int](repeating: 0, count: order.count)
        for writer in Set(lineages.flatMap { $0?.ranges.map(\.writer) ?? [] }) {
            // From the last to go on: what a later one covers does not go with an earlier one. Who stays is the latest.
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
