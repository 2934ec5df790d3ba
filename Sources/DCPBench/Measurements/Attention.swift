internal import DCPAttention
internal import DCPCore
internal import DCPRank

/// One attention that is computed again and again.
struct Work: Sendable {
    let attention: LayerAttention
    let queries: QueryRows
    let visible: VisibleTokens
    let blocks: KVBlocks
    let owner: any AnyObject & Sendable

    /// Two for each multiplication with its addition: Dk for a score, Dv for an output, for each row and key it sees.
    var operations: Double {
        let pairs = (0..<visible.count).reduce(0.0) { $0 + Double(visible[$1].count) }
        return 2 * Double(attention.keyDim + attention.valueDim) * pairs * Double(attention.queryHeads)
    }

    var job: AttentionJob {
        AttentionJob(
            entries: 1, rows: attention.queryHeads * queries.tokens, valueDim: attention.valueDim, owners: [owner]
        ) { _ in
            AttentionJob.Entry(
                AttentionWork(
                    attention: attention,
                    partition: HeadPartition(
                        queryHeads: attention.queryHeads, kvHeads: attention.kvHeads, contextRanks: 1),
                    heads: 0..<attention.queryHeads, queries: queries, tokens: 0..<queries.tokens, visible: visible,
                    over: blocks))
        }
    }

    /// The blocks that any query sees.
    var seenBlocks: ArraySlice<UnsafeRawPointer> {
        blocks.blocks[(visible[0].lowerBound / blocks.layout.blockTokens)...]
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
