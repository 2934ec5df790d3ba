// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPTransport
import DCPWire
import Testing

@Suite("The default way in which ranks get the queries")
struct QueryModeTests {
    private func mode(
        ranks: Int, headGroups: Int = 1, kilobytes: Int = 8, seesContext: Bool = true,
        at endpoint: String = "unix:/run/dcp/r"
    ) throws -> StepRequest.QueryMode {
        let shape = try ClusterShape(
            ranks: ranks, headGroups: headGroups, interleave: 1, blockTokens: 64, exchange: .allToAll)
        let topology = Topology(
            epoch: Epoch(1), phase: .ready, reason: "", shape: shape, leaseMilliseconds: 1,
            members: try shape.allRanks.map { Topology.Member(rank: $0, endpoint: try Endpoint(endpoint)) },
            cluster: ClusterID(1))
        return .cheaper(queryByteCount: kilobytes << 10, seesContext: seesContext, in: topology)
    }

    @Test("few queries go to all ranks, many to their own: from 256 KiB more on a machine, 64 KiB over a network")
    func bytes() throws {
        #expect(try mode(ranks: 2) == .replicate)
        #expect(try mode(ranks: 2, kilobytes: 256) == .replicate)
        #expect(try mode(ranks: 2, kilobytes: 257) == .gather)
        #expect(try mode(ranks: 5, kilobytes: 64) == .replicate)
        #expect(try mode(ranks: 5, kilobytes: 65) == .gather)
        #expect(try mode(ranks: 2, kilobytes: 64, at: "tcp:10.0.0.1:7400") == .replicate)
        #expect(try mode(ranks: 2, kilobytes: 65, at: "tcp:10.0.0.1:7400") == .gather)
    }

    @Test("where nothing would be exchanged nothing more is sent")
    func nothing() throws {
        #expect(try mode(ranks: 1) == .gather)
        #expect(try mode(ranks: 2, headGroups: 2) == .gather)
        #expect(try mode(ranks: 2, seesContext: false) == .gather)
    }
}
