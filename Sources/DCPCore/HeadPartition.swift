// SPDX-License-Identifier: Apache-2.0

/// The query heads of a head group whose output each context rank returns: its *own heads*.
///
/// A balanced contiguous split. Slices may be uneven and, with more ranks than heads, empty: 9 query heads on 4 ranks
/// are 3, 2, 2, 2. Heads are numbered inside the group; the order of slices is the order of context ranks, so joining
/// the slices in rank order restores the heads' order (TRAPS 27).
public struct HeadPartition: Hashable, Sendable {
    /// Query heads of the group.
    public let queryHeads: Int
    /// KV heads of the group.
    public let kvHeads: Int
    public let contextRanks: Int

    public init(queryHeads: Int, kvHeads: Int, contextRanks: Int) {
        precondition(kvHeads >= 1 && queryHeads >= kvHeads && queryHeads % kvHeads == 0 && contextRanks >= 1)
        self.queryHeads = queryHeads
        self.kvHeads = kvHeads
        self.contextRanks = contextRanks
    }

    /// Query heads that share one KV head.
    public var queryHeadsPerKVHead: Int { queryHeads / kvHeads }

    /// The own heads of a context rank. The first `queryHeads % contextRanks` ranks have one more than the others.
    public func ownHeads(ofRank rank: Int) -> Range<Int> {
        precondition(rank >= 0 && rank < contextRanks)
        let (each, extra) = queryHeads.quotientAndRemainder(dividingBy: contextRanks)
        let start = rank * each + min(rank, extra)
        return start..<start + each + (rank < extra ? 1 : 0)
    }

    /// The KV head that a query head reads. Both are numbered inside the group, wherever the query head is computed:
    /// a slice of heads never restarts the mapping at KV head 0 (TRAPS 28).
    public func kvHead(ofQueryHead head: Int) -> Int {
        precondition(head >= 0 && head < queryHeads)
        return head / queryHeadsPerKVHead
    }
}
