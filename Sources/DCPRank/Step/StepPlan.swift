// SPDX-License-Identifier: Apache-2.0

package import DCPAttention
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
    public let kvFormat: CacheFormat
    /// Of the own heads; empty for a layer without.
    public let sinks: [Float]
    public let partition: HeadPartition
    public let layout: ContextLayout
    public let contextRank: Int
    public let exchange: Exchange
    public let queryMode: StepRequest.QueryMode
    /// Whether the entries' tokens are new; else they are in the cache.
    public let appends: Bool
    public let wantsLSE: Bool
    /// Whether something is committed before the answer.
    public let commits: Bool
    public let entries: [StepRequest.Entry]
    public let tokens: Int

    /// Ranks in the head group.
    public var members: Int { partition.contextRanks }
    /// The heads that this rank answers for; none in a step without queries.
    public var ownHeads: Range<Int> { queryMode == .absent ? 0..<0 : partition.ownHeads(ofRank: contextRank) }

    /// Whether any query sees tokens that were there before the step: those before its entry's own, or, where nothing is
    /// appended, its own as well. Without, no rank has anything to exchange. The first query of an entry sees the furthest
    /// back.
    public var hasContext: Bool {
        guard queryMode != .absent else { return false }
        return entries.contains { attention.visibility.first(seenFrom: $0.position) < $0.contextEnd(appends: appends) }
    }

    /// Whether the ranks of the group wait for each other: for what they exchange, or, in a step that appends and does
    /// nothing else, for the word that each has its tokens.
    public var needsGroup: Bool { hasContext || queryMode == .absent }

    /// How many tokens the step brings keys and values of: this rank's own, where it has nothing else to do with them.
    public var keyValueTokens: Int {
        guard appends else { return 0 }
        return queryMode == .absent ? entries.reduce(0) { $0 + ownedIndices(of: $1).count } : tokens
    }

    /// The local indices that an entry's tokens have on this rank, as far as it owns them.
    func ownedIndices(of entry: StepRequest.Entry) -> Range<Int> {
        layout.localRange(ofRank: contextRank, from: entry.position, to: entry.positions.upperBound)
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
        guard request.appends || request.queryMode != .absent else {
            throw ServiceError(
                .invalidRequest,
                "The step neither appends nor has queries, so there is nothing to do; bring keys and values, or queries."
            )
        }
        try require("KV heads", request.kvHeads, partition.kvHeads)
        try require("key dimensions", request.keyDim, attention.keyDim)
        // None where the values are a part of the keys.
        try require("value dimensions", request.valueDim, attention.ownValueDim)
        if request.entries.count > 1 {
            var seen = Set<SequenceID>(minimumCapacity: request.entries.count)
            for entry in request.entries where !seen.insert(entry.sequence).inserted {
                throw ServiceError(
                    .invalidRequest,
                    "\(entry.sequence) is in the step twice; join its tokens into one entry, or send two steps.")
            }
        }
        self.attention = attention
        kvFormat = model.description.kvFormat
        let sinks = model.description.sinks[layer]
        let firstHead = cluster.headGroup(of: rank) * partition.queryHeads
        self.sinks = sinks.isEmpty ? [] : ownHeads.map { sinks[firstHead + $0] }
        self.partition = partition
        layout = cluster.layout
        self.contextRank = contextRank
        exchange = cluster.exchange
        queryMode = request.queryMode
        appends = request.appends
        wantsLSE = request.wantsLSE
        commits = !request.commits.isEmpty
        entries = request.entries
        tokens = request.tokens
        try require(
            !appends
                ? "tokens with keys and values and does not append"
                : queryMode == .absent
                    ? "tokens with keys and values of those that the rank owns"
                    : "tokens with keys and values", request.keyValueTokens, keyValueTokens)
    }

    /// For tests and tools that have no request at hand.
    package init(
        attention: LayerAttention, kvFormat: CacheFormat, sinks: [Float] = [], partition: HeadPartition,
        layout: ContextLayout, contextRank: Int, exchange: Exchange,
        queryMode: StepRequest.QueryMode, appends: Bool = true, wantsLSE: Bool, commits: Bool = false,
        entries: [StepRequest.Entry]
    ) {
        self.attention = attention
        self.kvFormat = kvFormat
        self.sinks = sinks
        self.partition = partition
        self.layout = layout
        self.contextRank = contextRank
        self.exchange = exchange
        self.queryMode = queryMode
        self.appends = appends
        self.wantsLSE = wantsLSE
        self.commits = commits
        self.entries = entries
        tokens = entries.reduce(0) { $0 + $1.count }
    }

    /// What a step holds while it is in flight, roughly: the tensors it brought, and in Float32 the group's queries, the states
    /// of all pieces, its partials and the own heads' states, and the queries once more as the kernels read them; without
    /// queries the tensors alone.
    /// - Parameter threads: that compute it.
    public func byteCount(of request: StepRequest, threads: Int) -> Int {
        let tensors = request.payloadByteCount
        guard queryMode != .absent else { return tensors }
        let panels = PanelLayout(
            attention, kvFormat, kvHeads: partition.kvHeads, blockTokens: layout.blockTokens)
        let states = entries.reduce(0) { sum, entry in
            sum
                + WorkSplit.stateByteCountMax(
                    heads: partition.queryHeads, tokens: entry.count, keyTokens: seenTokens(of: entry),
                    partition: partition, layout: panels)
        }
        let rows = partition.queryHeads * tokens
        let shared =
            entries.count > 1 && hasContext
            ? SharedRead.byteCountMax(rows: rows, layout: panels, threads: threads) : 0
        return tensors + states + shared + AttentionWork.queryByteCountMax(rows: rows, panels)
            + rows * (attention.keyDim + 2 * attention.valueDim) * 4
    }

    /// How many tokens of this rank's shard an entry's first query sees, and so all of them between them.
    func seenTokens(of entry: StepRequest.Entry) -> Int {
        let first = attention.visibility.first(seenFrom: entry.position)
        let end = max(first, entry.contextEnd(appends: appends))
        return layout.localRange(ofRank: contextRank, from: first, to: end).count
    }

    /// Which of the step's tokens a row of keys and values is of.
    package func token(ofRow row: Int) -> Int {
        guard queryMode == .absent else { return row }
        var (rows, start) = (0, 0)
        for entry in entries {
            let owned = ownedIndices(of: entry)
            if row < rows + owned.count {
                let position = layout.position(ofLocalIndex: owned.lowerBound + row - rows, rank: contextRank)
                return start + position - entry.position
            }
            rows += owned.count
            start += entry.count
        }
        preconditionFailure("the step has \(rows) rows, and none of number \(row)")
    }

    /// The answer to the step, none of its rows yet.
    package var pendingAnswer: PendingStepResult {
        PendingStepResult(tokens: tokens, heads: ownHeads.count, valueDim: attention.valueDim, wantsLSE: wantsLSE)
    }

    /// The states of this rank's shard as the group exchanges them, at once.
    package func cut(_ states: AttentionStates) -> ContextStates {
        guard exchange == .allToAll else { return .whole(states) }
        var cut = partialCut(of: states)
        guard let partials = cut.advance(outputsMax: .max) else { preconditionFailure("all rows fit") }
        return .cut(partials)
    }

    package func partialCut(of states: AttentionStates) -> PartialCut {
        PartialCut(states, rows: (0..<members).map { rows(ofRank: $0) })
    }

    /// The rows of a context rank's own heads in `[head][token]` states of the whole group.
    public func rows(ofRank rank: Int) -> Range<Int> {
        let heads = partition.ownHeads(ofRank: rank)
        return heads.lowerBound * tokens..<heads.upperBound * tokens
    }
}

extension StepRequest.Entry {
    /// Where the tokens end that are in the cache before the step's own work begins.
    func contextEnd(appends: Bool) -> Int { appends ? position : positions.upperBound }
}
