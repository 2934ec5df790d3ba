public import DCPCore
public import DCPWire

/// What every rank of a head group knows alike about a step, before anything is computed.
///
/// All branches of the step are taken from these rank-invariant facts (global positions, the request, the cluster's
/// shape), never from what a rank happens to hold: otherwise some ranks would enter an exchange and others not
/// (TRAPS 10, 11).
public struct StepPlan: Sendable {
    public let shape: ModelShape
    public let partition: HeadPartition
    public let contextRank: Int
    public let exchange: Exchange
    public let queryMode: StepRequest.QueryMode
    public let wantsLSE: Bool
    public let entries: [StepRequest.Entry]
    public let tokens: Int

    /// Ranks in the head group.
    public var members: Int { partition.contextRanks }
    /// The heads that this rank answers for; none in a step without queries.
    public var ownHeads: Range<Int> { queryMode == .absent ? 0..<0 : partition.ownHeads(ofRank: contextRank) }

    /// Whether any entry has tokens before its position that queries attend to. Without, no rank has anything to exchange.
    public var hasContext: Bool { queryMode != .absent && entries.contains { $0.position > 0 } }

    /// Checks a request against the model and this rank's place in the cluster.
    /// - Throws: `.invalidRequest`, naming the value and what it should be.
    public init(_ request: StepRequest, model: ModelRecord, cluster: ClusterShape, rank: RankIndex)
        throws(ServiceError)
    {
        let shape = model.shape
        let partition = cluster.partition(of: shape)
        let contextRank = cluster.contextRank(of: rank)
        let ownHeads = partition.ownHeads(ofRank: contextRank)
        func require(_ what: String, _ value: Int, _ expected: Int) throws(ServiceError) {
            guard value == expected else {
                throw ServiceError(
                    .invalidRequest,
                    "The step brings \(value) \(what), \(rank) needs \(expected) for model `\(model.name)`; correct the "
                        + "tensors or the model's name.")
            }
        }
        switch request.queryMode {
        case .gather: try require("query heads of its own", request.queryHeads, ownHeads.count)
        case .replicate: try require("query heads of its head group", request.queryHeads, partition.queryHeads)
        case .absent: try require("query heads in a step without queries", request.queryHeads, 0)
        }
        try require("KV heads", request.kvHeads, partition.kvHeads)
        try require("key dimensions", request.keyDim, shape.keyDim)
        try require("value dimensions", request.valueDim, shape.valueDim)
        var seen = Set<SequenceID>()
        for entry in request.entries where !seen.insert(entry.sequence).inserted {
            throw ServiceError(
                .invalidRequest,
                "\(entry.sequence) is in the step twice; join its tokens into one entry, or send two steps.")
        }
        self.shape = shape
        self.partition = partition
        self.contextRank = contextRank
        exchange = cluster.exchange
        queryMode = request.queryMode
        wantsLSE = request.wantsLSE
        entries = request.entries
        tokens = request.tokens
    }

    /// For tests and tools that have no request at hand.
    package init(
        shape: ModelShape, partition: HeadPartition, contextRank: Int, exchange: Exchange,
        queryMode: StepRequest.QueryMode, wantsLSE: Bool, entries: [StepRequest.Entry]
    ) {
        self.shape = shape
        self.partition = partition
        self.contextRank = contextRank
        self.exchange = exchange
        self.queryMode = queryMode
        self.wantsLSE = wantsLSE
        self.entries = entries
        tokens = entries.reduce(0) { $0 + $1.count }
    }

    /// What a step holds while it is in flight, roughly: the tensors it brought, and in Float32 the group's queries, its
    /// partials and the own heads' states; without queries the tensors alone.
    public func byteCount(of request: StepRequest) -> Int {
        let tensors = Message.step(request).payloadByteCount
        guard queryMode != .absent else { return tensors }
        return tensors + partition.queryHeads * tokens * (shape.keyDim + 2 * shape.valueDim) * 4
    }

    /// The rows of a context rank's own heads in `[head][token]` states of the whole group.
    public func rows(ofRank rank: Int) -> Range<Int> {
        let heads = partition.ownHeads(ofRank: rank)
        return heads.lowerBound * tokens..<heads.upperBound * tokens
    }
}
