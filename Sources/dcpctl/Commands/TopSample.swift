// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPWire

/// The state of a cluster at one moment.
struct TopSample {
    var at: ContinuousClock.Instant
    var topology: Topology
    /// Of the ranks that answered.
    var statuses: [RankIndex: RankStatus] = [:]
    /// Why there are none.
    var failure: ServiceError?
    var sequences: [(handle: SequenceHandle, progress: SequenceProgress)] = []

    /// A cluster that is not ready has a sample too.
    /// - Throws: when the coordinator does not answer.
    static func take(_ cluster: Cluster) async throws(ServiceError) -> TopSample {
        var sample = TopSample(at: .now, topology: try await cluster.topology())
        do throws(ServiceError) {
            for status in try await cluster.rankStatuses() { sample.statuses[status.rank] = status }
            sample.at = .now
            guard sample.topology.phase == .ready else { return sample }
            let handles = try await cluster.sequences()
            let progress = try await cluster.statuses(of: handles)
            sample.sequences = handles.compactMap { handle in progress[handle.record.id].map { (handle, $0) } }
        } catch {
            sample.failure = error
        }
        return sample
    }
}
