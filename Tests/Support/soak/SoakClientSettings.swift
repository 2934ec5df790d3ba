// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPTransport

/// What the clients of a soak have in common.
struct SoakClientSettings: Sendable {
    let coordinator: Endpoint
    let timeouts: Cluster.Timeouts
    /// The longest outage that is not a failure of the cluster.
    let patience: Duration
    let stories: [Story]
    let expected: Undisturbed
    let model: String
    let tally: Tally
    let accepted: AcceptedStores

    /// As a process that has just begun, through whatever happens to the coordinator.
    func connect() async throws(ServiceError) -> Cluster {
        try await Cluster.connect(to: coordinator, retryFor: patience, timeouts: timeouts)
    }
}
