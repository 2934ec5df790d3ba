// SPDX-License-Identifier: Apache-2.0

internal import DCPCore

/// The blocks that are in pieces, and which of them to try to make whole.
struct PiecedBlocks: Sendable {
    struct Block: Sendable {
        var key: BlockKey
        /// Pages of the run that it takes when it is whole, and entries that it is in the table now.
        var pages: Int
        var pieces: Int
    }

    /// By pages.
    private var waiting: [Int: [Block]] = [:]
    /// Some are being made whole: these, but for those that have been dropped since.
    private var isBusy = false
    private var taken: [Block] = []
    /// Damaged ones, which stay as they are.
    private var damaged: [Block] = []
    /// No run is known to be as long as this, since something was last freed.
    private var runPagesMissing = Int.max
    /// Transactions of the store at the last failure.
    private var transactions = 0

    /// Pages that one transaction makes whole: some hundred microseconds, and LMDB's list of what it frees fits a page.
    static let pagesMax = 256
    /// Between attempts that nothing but time speaks for: commits free pages, too, and readers let go of some.
    static let transactionsBetween = 64

    init(_ blocks: [Block] = []) { add(blocks) }

    var count: Int { waiting.values.reduce(taken.count + damaged.count) { $0 + $1.count } }

    /// How many entries of the table they are more than blocks.
    var excess: Int {
        let all = waiting.values.joined()
        return all.reduce(0) { $0 + $1.pieces - 1 } + (taken + damaged).reduce(0) { $0 + $1.pieces - 1 }
    }

    mutating func add(_ blocks: [Block]) {
        for block in blocks { waiting[block.pages, default: []].append(block) }
    }

    mutating func remove(where isGone: (Block) -> Bool) {
        waiting = waiting.mapValues { $0.filter { !isGone($0) } }.filter { !$0.value.isEmpty }
        taken.removeAll(where: isGone)
        damaged.removeAll(where: isGone)
    }

    /// Longer runs may be free than before.
    mutating func noteFreed() { runPagesMissing = .max }

    /// A transaction has committed; some of them later another attempt is due.
    mutating func noteCommit(transactions now: Int) {
        if now - transactions >= Self.transactionsBetween { runPagesMissing = .max }
    }

    /// The next to be made whole together, all of one size, the smallest first; nil while others are.
    mutating func next() -> [Block]? {
        guard !isBusy, let pages = waiting.keys.min(), pages < runPagesMissing,
            var blocks = waiting.removeValue(forKey: pages)
        else { return nil }
        let count = min(max(Self.pagesMax / pages, 1), blocks.count)
        isBusy = true
        taken = Array(blocks.suffix(count))
        blocks.removeLast(count)
        if !blocks.isEmpty { waiting[pages] = blocks }
        return taken
    }

    /// The work returned by `next` has ended.
    /// - Parameter found: those that are not intact; nil when no run was found.
    mutating func end(_ blocks: [Block], damaged found: Set<BlockKey>?, transactions now: Int) {
        if let found {
            damaged += taken.filter { found.contains($0.key) }
        } else if let pages = blocks.first?.pages {
            add(taken)
            runPagesMissing = min(runPagesMissing, pages)
            transactions = now
        }
        (isBusy, taken) = (false, [])
    }
}
