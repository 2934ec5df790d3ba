internal import DCPCore
public import DCPWire

/// Stores that are full: every rank is told alike, and, if that is the policy, sequences go.
extension CoordinatorMachine {
    /// A rank has renewed its lease.
    public mutating func renewed(
        _ link: LinkID, _ renewal: LeaseRenewal = LeaseRenewal(stepsInFlight: 0), now: Duration
    ) -> [Action] {
        guard let rank = rank(of: link) else { return [] }
        update(rank) { $0.lastHeard = now }
        var actions: [Action] = [.send(.leaseRenewed, number: 0, to: link)]
        marks.report(renewal.durableMark, from: rank)
        eviction.used(renewal.usedSequences, at: now)
        eviction.report(renewal.evictionByteCount, from: rank)
        if refusals[rank] != renewal.refusal {
            refusals[rank] = renewal.refusal
            actions += tellRefusals()
        }
        return actions + evictIfDue(now: now)
    }

    /// Tells every rank why some take no new tokens, so that none does.
    mutating func tellRefusals() -> [Action] {
        let all = refusals.sorted { $0.key < $1.key }.map(\.value)
        return members.map { .send(.refusals(all), number: 0, to: $0.member.link) }
    }

    /// A rank is gone, and with it its word.
    mutating func forgetRoom(of rank: RankIndex) -> [Action] {
        eviction.forget(rank)
        return refusals.removeValue(forKey: rank) == nil ? [] : tellRefusals()
    }

    private mutating func evictIfDue(now: Duration) -> [Action] {
        guard phase == .ready, eviction.isDue, let (rank, byteCount) = eviction.mostWanted else { return [] }
        // What an operation is about to change, or a fork is about to read, is in use.
        var busy: Set<SequenceID> = []
        for pending in operations.values {
            if let id = pending.operation.sequence { busy.insert(id) }
            if case .fork(let parent, _, _) = pending.operation { busy.insert(parent) }
        }
        let candidates = state.sortedSequences.filter {
            !$0.isClosing && !$0.isPinned && $0.fork == nil && !busy.contains($0.record.id)
                && !CanaryNames.isSequence($0.record.name)
        }
        guard var entry = eviction.victim(among: candidates, now: now) else { return [] }
        eviction.began(entry)
        entry.isClosing = true
        return persist([.sequence(entry)])
            + [.report(.evicted(entry.record.id, name: entry.record.name, rank: rank, byteCount: byteCount))]
            + carry(.evict(entry.record.id), for: nil, reply: DirectoryReply())
    }

    /// Pins a sequence, or takes that back. Durable; concerns the coordinator alone.
    mutating func pin(
        _ name: String, _ isPinned: Bool, _ requester: PendingOperation.Requester
    ) throws(ServiceError) -> [Action] {
        var entry = try sequence(name)
        let isNew = entry.isPinned != isPinned
        entry.isPinned = isPinned
        let reply = DirectoryReply(
            models: state.models[entry.record.model].map { [$0] } ?? [], sequences: [entry.record],
            pinned: isPinned ? [entry.record.id] : [])
        return (isNew ? persist([.sequence(entry)]) : [])
            + [.answer(.directoryReply(reply), requester.tag, to: requester.link)]
    }
}
