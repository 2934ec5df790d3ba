// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
package import DCPWire

extension StepRequest.QueryMode {
    /// The extra bytes that replicating may send from the client to all ranks together: about as many as it sends in
    /// the time of the saved exchange. Over sockets of one machine that is two wake-ups of a thread; over a network it
    /// is two packets over one link.
    private static let localByteCountMax = 256 << 10
    private static let remoteByteCountMax = 64 << 10

    /// The cheaper mode. The answers have the same bits.
    ///
    /// Replicated queries save the ranks a message to each other, without which none of them can begin. They cost the
    /// client as many bytes as the ranks would have sent.
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
    /// The requested mode, or the cheaper one.
    func queryMode(in topology: Topology, _ attention: LayerAttention) -> StepRequest.QueryMode {
        guard let queries else { return .absent }
        let isFirst = keys != nil && entries.allSatisfy { $0.position == 0 }
        return queryMode
            ?? .cheaper(
                queryByteCount: queries.byteCount(0..<attention.queryHeads, tokens: tokens), seesContext: !isFirst,
                in: topology)
    }
}
