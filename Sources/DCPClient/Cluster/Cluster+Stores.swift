public import DCPCore
public import DCPWire

/// Which store is whose, and what an operator gives up of one.
extension Cluster {
    /// The stores that the coordinator has recorded, by rank.
    public func stores() async throws(ServiceError) -> [RecordedStore] { try await ask(ListStores()) }

    /// Gives up a rank's store, or its latest changes: the next store that comes in its place is taken, and every sequence is cut
    /// to what that holds. Good until the coordinator ends.
    /// - Throws: `.conflict` when the rank is here, or its store is not the one that is named.
    public func giveUp(_ loss: StoreLoss, of rank: RankIndex) async throws(ServiceError) {
        _ = try await ask(GiveUpStore(rank: rank, loss: loss))
    }
}
