// SPDX-License-Identifier: Apache-2.0

public import DCPCore
public import DCPWire

/// The ranks' stores, and giving them up.
extension Cluster {
    /// The stores that the coordinator has recorded, by rank.
    public func stores() async throws(ServiceError) -> [RecordedStore] { try await ask(ListStores()) }

    /// Gives up a rank's store, or its latest changes: the coordinator accepts the next store in its place, and every
    /// sequence is cut to its contents. Valid until the coordinator stops.
    /// - Throws: `.conflict` if the rank is registered, or its store is not the given one.
    public func giveUp(_ loss: StoreLoss, of rank: RankIndex) async throws(ServiceError) {
        _ = try await ask(GiveUpStore(rank: rank, loss: loss))
    }
}
