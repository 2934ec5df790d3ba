public import DCPCore
public import DCPWire

/// What every rank of a head group knows alike about a step, before anything is computed.
///
/// All branches of the step are taken from these rank-invariant facts (global positions, the request, the cluster's
/// shape), never from what a rank happens to hold: otherwise some ranks would enter an exchange and others not
/// (TRAPS 10, 11).
public struct StepPlan: Sendable {
    /// Of the step's layer.
    public let attention: LayerAttention
    public let kvDataType: DataType
    /// Of the own heads; empty for a layer without.
    public let sinks: [Float]
    public let partition: HeadPartition
    public let layout: ContextLayout
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

    /// Whether any query sees tokens before its entry's own. Without, no rank has anything to exchange. The first query of
    /// an entry sees the furthest back.
    public var hasContext: Bool {
        queryMode != .absent && entries.contains { attention.visibility.first(seenFrom: $0.position) < $0.position }
    }

    /// Checks a request against a layer of its model, which has that layer, and this rank's place in the cluster.
    /// - Throws: `.invalidRequest`, naming the value and what it should be.
    public init(
        _ request: StepRequest, layer: Int, model: ModelRecord, cluster: ClusterShape, rank: RankIndex
    ) throws(ServiceError) {
        let attention = model.description[layer]
        let partition = cluster.partition(of: attention)
        let contextRank = cluster.contextRank(of: rank)
        let ownHeads = partition.ownHeads(ofRank: contextRank)
        func require(_ what: String, _ value: Int, _ expected: Int) throws(ServiceError) {
            guard value == expected else {
                throw ServiceError(
                    .invalidRequest,
                    "The step brings \(value) \(what), \(rank) needs \(expected) for layer \(layer) of model "
                        + "`\(model.name)`; correct the tensors or the model's name.")
            }
        }
        switch request.queryMode {
        case .gather: try require("query heads of its own", request.queryHeads, ownHeads.count)
        case .replicate: try require("query heads of its head group", request.queryHeads, partition.queryHeads)
        case .absent: try require("query heads in a step without queries", request.queryHeads, 0)
        }
        try require("KV heads", request.kvHeads, partition.kvHeads)
        try require("key dimensions", request.keyDim, attention.keyDim)
        // None where the values are a part of the keys.
        try require("value dimensions", request.valueDim, attention.ownValueDim)
        var seen = Set<SequenceID>()
        for entry in request.entries where !seen.insert(entry.sequence).inserted {
            throw ServiceError(
                .invalidRequest,
                "\(entry.sequence) is in the step twice; join its tokens into one entry, or send two steps.")
        }
        self.attention = attention
        kvDataType = model.description.kvDataType
        let sinks = model.description.sinks[layer]
        let firstHead = cluster.headGroup(of: rank) * partition.queryHeads
        self.sinks = sinks.isEmpty ? [] : ownHeads.map { sinks[firstHead + $0] }
        self.partition = partition
        layout = cluster.layout
        self.contextRank = contextRank
        exchange = cluster.exchange
        queryMode = request.queryMode
        wantsLSE = request.wantsLSE
        entries = request.entries
        tokens = request.tokens
    }

    /// For tests and tools that have no request at hand.
    package init(
        attention: LayerAttention, kvDataType: DataType, sinks: [Float] = [], partition: HeadPartition,
        layout: ContextLayout, contextRank: Int, exchange: Exchange,
        queryMode: StepRequest.QueryMode, wantsLSE: Bool, entries: [StepRequest.Entry]
    ) {
        self.attention = attention
        self.kvDataType = kvDataType
        self.sinks = sinks
        self.partition = partition
        self.layout = layout
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
        let tensors = request.payloadByteCount
        guard queryMode != .absent else { return tensors }
        return tensors + partition.queryHeads * tokens * (attention.keyDim + 2 * attention.valueDim) * 4
    }

    /// The rows of a context rank's own heads in `[head][token]` states of the whole group.
    public func rows(ofRank rank: Int) -> Range<Int> {
        let heads = partition.ownHeads(ofRank: rank)
        return heads.lowerBound * tokens..<heads.upperBound * tokens
    }
}
