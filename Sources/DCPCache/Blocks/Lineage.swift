// SPDX-License-Identifier: Apache-2.0

internal import DCPCore

/// The writers of a sequence's sealed blocks, in order.
///
/// Forks share blocks, so blocks are named after a *writer*, a rank-local number that is never assigned twice, and not
/// after a sequence. A sequence gets a writer when it is opened or forked, and a new one whenever it drops a sealed
/// block: the dropped blocks may still exist in a fork, or wait for deletion, and the next sealed blocks must not take
/// their keys.
///
/// A sequence's lineage in memory also covers what is sealed and not committed: blocks that were spilled. Its record does
/// not, so a crash leaves them to be swept. A layer may have fewer of them than others, and then has the next of its own
/// in RAM.
///
/// Two more lineages of a sequence name what forks share in the same way: its chunks of ids, and the rows of its open block.
/// What is called a block here is a chunk, or a row, then.
struct Lineage: Equatable, Sendable {
    struct Entry: Equatable, Sendable {
        var writer: UInt64
        /// Blocks from the previous entry's end, or 0, up to this one are the writer's.
        var endBlock: Int
    }

    /// The number its next sealed block is written under.
    private(set) var writer: UInt64
    private(set) var entries: [Entry]
    /// Those before it are not of this lineage: of rows, those of sealed blocks.
    private(set) var start: Int
    /// There may be blocks with the writer's number beyond the end: a crash left them, they wait for deletion, or a
    /// fork has them. The next sealed block needs another number.
    var isWriterSpent = false

    init(writer: UInt64, entries: [Entry] = [], from start: Int = 0) {
        self.writer = writer
        self.entries = entries
        self.start = start
    }

    /// Sealed blocks, in each layer.
    var sealedBlocks: Int { entries.last?.endBlock ?? start }

    var ranges: [(writer: UInt64, blocks: Range<Int>)] {
        var start = start
        return entries.map { entry in
            defer { start = entry.endBlock }
            return (entry.writer, start..<entry.endBlock)
        }
    }

    /// Each block, with its writer.
    var places: [(writer: UInt64, index: Int)] {
        ranges.flatMap { range in range.blocks.map { (range.writer, $0) } }
    }

    func writer(ofBlock index: Int) -> UInt64? {
        index < start ? nil : entries.first { index < $0.endBlock }?.writer
    }

    /// The own writer has sealed the blocks up to `end`.
    mutating func seal(upTo end: Int) {
        guard end > sealedBlocks else { return }
        if entries.last?.writer == writer {
            entries[entries.count - 1].endBlock = end
        } else {
            entries.append(Entry(writer: writer, endBlock: end))
        }
    }

    /// Another number for what is sealed next.
    mutating func renew(_ writer: UInt64) {
        self.writer = writer
        isWriterSpent = false
    }

    /// The first `blocks` blocks, for a record.
    func covering(_ blocks: Int) -> Lineage { cut(to: blocks, writer: writer) }

    /// The first `blocks` blocks, for a sequence that continues with another writer.
    func cut(to blocks: Int, writer: UInt64) -> Lineage {
        var kept: [Entry] = []
        for (writer, range) in ranges where range.lowerBound < blocks {
            kept.append(Entry(writer: writer, endBlock: min(range.upperBound, blocks)))
        }
        return Lineage(writer: writer, entries: kept, from: min(start, blocks))
    }

    /// Without what is before a block.
    func dropping(before block: Int) -> Lineage {
        Lineage(writer: writer, entries: entries.filter { $0.endBlock > block }, from: max(start, block))
    }
}

/// The lineages of all sequences, and for each writer who still uses which of its blocks.
struct LineageTable: Sendable {
    private var lineages: [SequenceID: Lineage] = [:]
    private(set) var users: [UInt64: [SequenceID: Range<Int>]] = [:]

    subscript(_ id: SequenceID) -> Lineage? {
        get { lineages[id] }
        set {
            for (writer, _) in lineages[id]?.ranges ?? [] {
                users[writer]?[id] = nil
                if users[writer]?.isEmpty == true { users[writer] = nil }
            }
            lineages[id] = newValue
            for (writer, range) in newValue?.ranges ?? [] { users[writer, default: [:]][id] = range }
        }
    }

    func isCovered(writer: UInt64, block: Int) -> Bool { end(ofCover: writer, block: block) != nil }

    /// Whether one lineage covers all of these.
    func isCovered(writer: UInt64, blocks: Range<Int>) -> Bool {
        users[writer]?.values.contains { $0.lowerBound <= blocks.lowerBound && blocks.upperBound <= $0.upperBound }
            ?? false
    }

    /// Where a lineage that covers a block ends to; nil when none does.
    func end(ofCover writer: UInt64, block: Int) -> Int? {
        users[writer]?.values.first { $0.contains(block) }?.upperBound
    }

    /// Gives a sequence another lineage, or none.
    /// - Returns: the blocks that it covered and that no lineage covers now.
    mutating func replace(_ id: SequenceID, by replacement: Lineage?) -> [(writer: UInt64, blocks: Range<Int>)] {
        let former = lineages[id]?.ranges ?? []
        self[id] = replacement
        var found: [(writer: UInt64, blocks: Range<Int>)] = []
        for (writer, range) in former {
            let users = (users[writer] ?? [:]).values.sorted { $0.lowerBound < $1.lowerBound }
            var start = range.lowerBound
            // Of rows one user may be wholly behind another: it has sealed what the other has not.
            for other in users where other.overlaps(start..<max(start, range.upperBound)) {
                if other.lowerBound > start { found.append((writer, start..<other.lowerBound)) }
                start = other.upperBound
            }
            if start < range.upperBound { found.append((writer, start..<range.upperBound)) }
        }
        return found.filter { !$0.blocks.isEmpty }
    }
}
