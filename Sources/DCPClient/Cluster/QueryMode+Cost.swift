internal import DCPCore
package import DCPWire

extension StepRequest.QueryMode {
    /// What replicating may send more than gathering would, from the client to all ranks together: about what it sends in the
    /// time of the exchange that is left out. Over sockets of one machine that is two wake-ups of a thread, over a network two
    /// packets, with one link to send them by.
    private static let localByteCountMax = 256 << 10
    private static let remoteByteCountMax = 64 << 10

    /// The one that costs less. The answers have the same bits.
    ///
    /// Replicated queries save the ranks a message to each other, before which none of them can begin. They cost the client
    /// as many bytes as the ranks would have sent.
    /// - Parameters:
    ///   - byteCount: of the queries of all heads.
    ///   - seesContext: whether there is anything for other ranks to compute.
    package static func cheaper(queryByteCount byteCount: Int, seesContext: Bool, in topology: Topology) -> Self {
        let others = topology.shape.contextRanks - 1
        guard others > 0, seesContext else { return .gather }
        let isRemote = topology.shape.allRanks.contains { rank in
            if case .tcp? = topology.endpoint(of: rank) { true } else { false }
        }
        return others * byteCount <= (isRemote ? remoteByteCountMax : localByteCountMax) ? .replicate : .gather
    }
}

extension StepContents {
    /// As it was asked for, or as it is cheaper.
    func queryMode(in topology: Topology, _ attention: LayerAttention) -> StepRequest.QueryMode {
        guard let queries else { return .absent }
        let isFirst = keys != nil && entries.allSatisfy { $0.position == 0 }
        return queryMode
            ?? .cheaper(
                queryByteCount: queries.byteCount(0..<attention.queryHeads, tokens: tokens), seesContext: !isFirst,
                in: topology)
    }
}
