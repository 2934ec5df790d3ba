// SPDX-License-Identifier: Apache-2.0

import DCPClient
import DCPCore
import DCPLocalCluster
import DCPWire
import Synchronization

/// What older stores that were taken in place of newer ones can have cost the clients. Any thread.
///
/// All that was acknowledged before a copy's *period* began, and not cut since, is in the copy.
final class AcceptedStores: Sendable {
    /// An older store that was taken.
    struct Acceptance: Sendable {
        /// How many there have been.
        var count = 0
        /// The period that the copy was made in.
        var period = 0
        /// What it had committed of each sequence.
        var held: [SequenceID: Int] = [:]
    }

    private let state = Mutex((period: 0, last: Acceptance()))

    /// Rises before a copy is made.
    var period: Int { state.withLock { $0.period } }

    var last: Acceptance { state.withLock { $0.last } }

    func beginPeriod() { state.withLock { $0.period += 1 } }

    func accept(_ held: [SequenceID: Int]) {
        state.withLock { $0.last = Acceptance(count: $0.last.count + 1, period: $0.period, held: held) }
    }
}

extension LocalCluster {
    /// Gives up what a rank's store has beyond an older copy, as an operator would.
    func acceptOlderStore(of rank: RankIndex) async throws {
        let cluster = try await Cluster.connect(to: Endpoint(coordinatorEndpoint))
        do {
            let known = try await cluster.stores().first { $0.rank == rank }
            guard let known else { throw SoakFailure("The coordinator has recorded no store of \(rank)") }
            try await cluster.giveUp(.changes(known.mark), of: rank)
            await cluster.close()
        } catch {
            await cluster.close()
            throw error
        }
    }
}
