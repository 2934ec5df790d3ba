internal import DCPAttention
internal import DCPCore
internal import DCPRank
internal import DCPTestKit

/// One attention that is computed again and again.
struct Work: Sendable {
    let model: ModelDescription
    let queries: QueryRows
    let blocks: KVBlocks
    let causal: Bool
    let owner: any AnyObject & Sendable

    /// Two for each multiplication with its addition: Dk for a score, Dv for an output, for each row and key it sees.
    var operations: Double {
        let pairs =
            causal
            ? Double(queries.tokens) * Double(queries.tokens + 1) / 2 : Double(queries.tokens) * Double(blocks.tokens)
        return 2 * Double(model.keyDim + model.valueDim) * pairs * Double(model.queryHeads)
    }

    var job: AttentionJob {
        let work = AttentionWork(
            attention: model[0],
            partition: HeadPartition(queryHeads: model.queryHeads, kvHeads: model.kvHeads, contextRanks: 1),
            heads: 0..<model.queryHeads, queries: queries, tokens: 0..<queries.tokens,
            visible: causal
                ? .new(.all, at: 0..<queries.tokens) : .all(count: queries.tokens, of: blocks.tokens),
            over: blocks)
        return AttentionJob(
            works: [work], rows: model.queryHeads * queries.tokens, valueDim: model.valueDim, owners: [owner])
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
        states = .empty(rows: 0, valueDim: work.model.valueDim)
    }

    /// As a rank does it: cut, dealt, merged.
    func run() throws {
        let work = work
        states = try team.attend { work.job }
    }
}
