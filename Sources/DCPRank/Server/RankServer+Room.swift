// SPDX-License-Identifier: Apache-2.0

internal import DCPCache
internal import DCPCore
internal import DCPStore
internal import DCPWire
internal import NIOCore

/// Whether new tokens are taken, decided alike by all ranks.
///
/// A rank decides for itself at a token's first layer, and its refusal aborts the step in its whole group, like any other
/// verdict. It also tells the coordinator at once, which tells all ranks: from then on every rank refuses for the same
/// reason, those of other head groups too, before anything is appended. A token whose first layer was taken is taken in
/// all layers, so that it can be committed: the room between the watermark and the capacity is for that.
extension RankServer {
    /// - Throws: `.storeFull`, retryable, with the rank, what it holds, its limit and the remedy; `.storeDamaged` when a
    ///   rank writes no more.
    func checkTakesTokens(_ entries: [StepRequest.Entry]) throws(ServiceError) {
        let isNew = entries.contains {
            !cache.hasLayer(of: $0.sequence, beyond: Position($0.positions.upperBound - 1))
        }
        guard isNew else { return }
        if let refusal = cache.refusal ?? cache.crowding { throw refusal }
        if let refusal = coordinator.otherRefusals.first { throw refusal }
    }

    /// Whether a step is a canary's, and no longer than one: such tokens stay in RAM.
    func isCanary(_ request: StepRequest, _ layout: ContextLayout) -> Bool {
        request.model == .canary && request.entries.allSatisfy { $0.position + $0.count <= layout.canaryTokens }
    }

    /// Follows the store from now on.
    func observeStore() {
        let bound = NIOLoopBound(WeakServer(self), eventLoop: eventLoop)
        let eventLoop = eventLoop
        cache.observeCondition { _ in
            // Not from the writer's thread: its lock order is not the loop's.
            eventLoop.execute { bound.value.server?.conditionChanged() }
        }
        if cache.refusal != nil { conditionChanged() }
    }

    private func conditionChanged() {
        observe(.storeCondition(refusal: cache.refusal))
        coordinator.renew()
    }

    func noteStepsInFlight() {
        uses.note(steps.inOrder { _ in true }.lazy.flatMap { $0.request.entries.map(\.sequence) })
    }

    /// Which of the sequences that may be evicted have to go. None that was used since the coordinator was told.
    func victims(among candidates: [SequenceID]) -> [SequenceID] {
        noteStepsInFlight()
        return cache.victims(among: candidates.filter { !uses.isUntold($0) })
    }

    func unknown(_ sequence: SequenceID) -> ServiceError {
        if uses.isEvicted(sequence) {
            return ServiceError(
                .evicted,
                "\(sequence) was closed to make room, or because it had not been used for its time to live; open it "
                    + "again, prefill it, and pin it if it must stay (dcpctl sequence pin).")
        }
        return cache.failure ?? ServiceError(.unknownSequence, "\(sequence) is not open; open it again.")
    }

    func room(_ statistics: CacheStatistics) -> StoreRoom {
        let health = cache.health
        let capacity = statistics.storeMapByteCount
        let condition: StoreRoom.Condition =
            switch health.condition {
            case .writable: .writable
            case .full: .full
            case .refused: .refused
            case .failed: .failed
            }
        return StoreRoom(
            durability: cache.settings.durability.rawValue, condition: condition,
            refusal: (cache.refusal ?? coordinator.otherRefusals.first)?.message ?? "",
            fileByteCount: UInt64(statistics.storeFileByteCount),
            highByteCount: UInt64(cache.settings.watermarks.highByteCount(capacity: capacity)),
            lowByteCount: UInt64(cache.settings.watermarks.lowByteCount(capacity: capacity)),
            deletingByteCount: UInt64(cache.doomedByteCount))
    }
}

private struct WeakServer {
    weak var server: RankServer?
    init(_ server: RankServer) { self.server = server }
}
