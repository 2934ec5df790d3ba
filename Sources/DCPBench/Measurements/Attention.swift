// SPDX-License-Identifier: Apache-2.0

internal import DCPAttention
internal import DCPCore
internal import DCPRank

/// The attention of one step that is computed again and again: of one sequence, or of several.
struct Work: Sendable {
    /// The tokens that a sequence's queries see.
    struct Entry: Sendable {
        let visible: VisibleTokens
        let blocks: KVBlocks
    }

    let attention: LayerAttention
    /// Of all entries, as many tokens of each.
    let queries: QueryRows
    let entries: [Entry]
    let owner: any AnyObject & Sendable

    init(
        attention: LayerAttention, queries: QueryRows, entries: [Entry], owner: any AnyObject & Sendable
    ) {
        precondition(queries.tokens % entries.count == 0)
        self.attention = attention
        self.queries = queries
        self.entries = entries
        self.owner = owner
    }

    /// Query tokens of an entry.
    var count: Int { queries.tokens / entries.count }

    /// Two for each multiplication with its addition: Dk for a score, Dv for an output, for each row and key it sees.
    var operations: Double {
        let pairs = entries.reduce(0.0) { sum, entry in
            (0..<entry.visible.count).reduce(sum) { $0 + Double(entry.visible[$1].count) }
        }
        return 2 * Double(attention.keyDim + attention.valueDim) * pairs * Double(attention.queryHeads)
    }

    /// Of the tokens that any query sees.
    var byteCount: Int {
        entries.reduce(0) {
            let seen = $1.visible[0].lowerBound..<$1.visible.keyTokens
            return $0 + seen.count * $1.blocks.layout.keptByteCount
        }
    }

    var job: AttentionJob {
        AttentionJob(
            entries: entries.count, rows: attention.queryHeads * queries.tokens, valueDim: attention.valueDim,
            owners: [owner]
        ) { index in
            AttentionJob.Entry(
                AttentionWork(
                    attention: attention,
                    partition: HeadPartition(
                        queryHeads: attention.queryHeads, kvHeads: attention.kvHeads, contextRanks: 1),
                    heads: 0..<attention.queryHeads, queries: queries, tokens: index * count..<(index + 1) * count,
                    visible: entries[index].visible, over: entries[index].blocks))
        }
    }

    /// The blocks that any query sees, each as often as an entry has it.
    var seenBlocks: [UnsafeRawPointer] {
        entries.flatMap { $0.blocks.blocks[($0.visible[0].lowerBound / $0.blocks.layout.blockTokens)...] }
    }
}

final class Attention {
    let work: Work
    private let team: Team
    /// The last result. All are the same bits.
    private(set) var states: AttentionStates

    init(_ work: Work, _ team: Team) {
        self.work = work
        self.team = team
        states = .empty(rows: 0, valueDim: work.attention.valueDim)
    }

    /// As a rank does it: cut, dealt, merged.
    func run() throws {
        let work = work
        states = try team.attend { work.job }
    }
}
