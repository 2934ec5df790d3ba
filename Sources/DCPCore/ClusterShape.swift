// SPDX-License-Identifier: Apache-2.0

/// The arrangement of a cluster's ranks: W ranks form G head groups of C context ranks.
///
/// It is fixed when the cluster is created. The coordinator stores it and sends it to every rank, which compares it
/// with its store.
public struct ClusterShape: Hashable, Sendable {
    /// G. Head group g serves the KV heads `[g * Hkv / G, (g + 1) * Hkv / G)` and their query heads.
    public let headGroups: Int
    public let layout: ContextLayout
    public let exchange: Exchange

    public static let ranksMax = 1024

    /// - Throws: `.invalidConfiguration`, with the value, the limit and the remedy.
    public init(ranks: Int, headGroups: Int, interleave: Int, blockTokens: Int, exchange: Exchange)
        throws(ServiceError)
    {
        guard (1...Self.ranksMax).contains(ranks) else {
            throw ServiceError(
                .invalidConfiguration, "\(ranks) ranks are outside 1...\(Self.ranksMax); change --ranks.")
        }
        guard headGroups >= 1, ranks % headGroups == 0 else {
            throw ServiceError(
                .invalidConfiguration,
                "\(ranks) ranks cannot form \(headGroups) head groups of equal size; choose a --head-groups that "
                    + "divides --ranks.")
        }
        self.headGroups = headGroups
        self.layout = try ContextLayout(
            contextRanks: ranks / headGroups, interleave: interleave, blockTokens: blockTokens)
        self.exchange = exchange
    }

    /// W.
    public var ranks: Int { headGroups * layout.contextRanks }
    /// C.
    public var contextRanks: Int { layout.contextRanks }

    public var allRanks: [RankIndex] { (0..<ranks).map { RankIndex(UInt16($0)) } }

    public func headGroup(of rank: RankIndex) -> Int { Int(rank.value) / contextRanks }
    public func contextRank(of rank: RankIndex) -> Int { Int(rank.value) % contextRanks }
    public func rank(headGroup: Int, contextRank: Int) -> RankIndex {
        precondition((0..<headGroups).contains(headGroup) && (0..<contextRanks).contains(contextRank))
        return RankIndex(UInt16(headGroup * contextRanks + contextRank))
    }

    /// The ranks of one head group, in context-rank order: the order of head slices and of the merge.
    public func members(ofHeadGroup group: Int) -> [RankIndex] {
        (0..<contextRanks).map { rank(headGroup: group, contextRank: $0) }
    }

    /// A block is one value in a store, whose size has 32 bits. The limit leaves room for its header.
    public static let blockByteCountMax = (1 << 32) - 4096

    /// Checks that this cluster can serve a model.
    /// - Throws: `.invalidModel` if the head groups do not divide the KV heads, or a block would be too large.
    public func check(_ model: ModelDescription) throws(ServiceError) {
        for kind in model.kinds { try check(kind, kvFormat: model.kvFormat) }
    }

    private func check(_ kind: LayerAttention, kvFormat: CacheFormat) throws(ServiceError) {
        guard kind.kvHeads % headGroups == 0 else {
            throw ServiceError(
                .invalidModel,
                "\(kind.kvHeads) KV heads cannot be divided over the cluster's \(headGroups) head groups; serve this "
                    + "model from a cluster whose --head-groups divides its KV heads (1 always does).")
        }
        let tokenByteCount = kind.keptByteCount(kvFormat) / headGroups
        let byteCount = tokenByteCount * layout.blockTokens
        guard byteCount <= Self.blockByteCountMax else {
            let multiple = ContextLayout.blockTokensMultiple
            throw ServiceError(
                .invalidModel,
                "A block of \(layout.blockTokens) tokens of \(tokenByteCount) bytes has \(byteCount) bytes, above the limit "
                    + "of \(Self.blockByteCountMax); serve this model from a cluster with fewer --block-tokens, at most "
                    + "\(Self.blockByteCountMax / tokenByteCount / multiple * multiple), or with more --head-groups.")
        }
    }

    /// The partition of one group's query heads in a layer. The model must have passed `check(_:)`.
    public func partition(of attention: LayerAttention) -> HeadPartition {
        precondition(attention.kvHeads % headGroups == 0)
        return HeadPartition(
            queryHeads: attention.queryHeads / headGroups, kvHeads: attention.kvHeads / headGroups,
            contextRanks: contextRanks)
    }
}

/// How a head group combines context partials into each rank's own heads. Both forms give the same bits.
public enum Exchange: UInt8, CaseIterable, Sendable {
    /// All-to-all: the partial (O, LSE) of head slice j goes to rank j in one message.
    case allToAll = 1
    /// All-gather of the LSE, correction on the sender, reduce-scatter of O: the published form.
    case allGatherReduceScatter = 2

    /// The name in options and messages: `a2a`, `ag-rs`.
    public var name: String {
        switch self {
        case .allToAll: "a2a"
        case .allGatherReduceScatter: "ag-rs"
        }
    }

    public init?(name: String) {
        guard let match = Exchange.allCases.first(where: { $0.name == name }) else { return nil }
        self = match
    }
}
