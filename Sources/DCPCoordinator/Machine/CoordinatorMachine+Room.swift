public import DCPCore
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
        guard phase == .ready, eviction.isDue else { return [] }
        let candidates = evictable(now: now).map(\.record.id)
        guard !candidates.isEmpty else { return [] }
        let number = takeNumber()
        let (ranks, told) = eviction.ask(number, candidates)
        return members.filter { ranks.contains($0.rank) }.map {
            .send(.victimsRequest(told), number: number, to: $0.member.link)
        }
    }

    /// A rank says what has to go to make the room that it wants.
    public mutating func victims(
        _ link: LinkID, number: UInt64, _ sequences: [SequenceID], now: Duration
    ) -> [Action] {
        guard let rank = rank(of: link), phase == .ready,
            let chosen = eviction.answered(rank, number, sequences),
            let (mostWanting, byteCount) = eviction.mostWanted
        else { return [] }
        // Some may have been used, pinned or forked since the ranks were asked.
        let victims = evictable(now: now).filter { chosen.contains($0.record.id) }
        var actions = persist(
            victims.map { victim in
                var entry = victim
                entry.isClosing = true
                return .sequence(entry)
            })
        for victim in victims {
            let id = victim.record.id
            eviction.began(victim)
            actions.append(
                .report(.evicted(id, name: victim.record.name, rank: mostWanting, byteCount: byteCount)))
            actions += carry(.evict(id), for: nil, reply: DirectoryReply())
        }
        return actions
    }

    /// What may go, the least recently used first.
    private func evictable(now: Duration) -> [SequenceEntry] {
        // What an operation is about to change, or a fork is about to read, is in use.
        let entries = state.sequences.values.filter {
            !$0.isClosing && !$0.isPinned && $0.fork == nil && underWay[$0.record.id] == nil
                && !CanaryNames.isSequence($0.record.name)
        }
        return eviction.candidates(among: entries, now: now)
    }

    /// Who opens, claims, forks or cuts a sequence is about to use it.
    mutating func noteUse(by request: DirectoryRequest, now: Duration) {
        guard eviction.policy != .off else { return }
        let used: [SequenceID?] =
            switch request {
            case .openSequence(let name, _, _, _), .truncate(let name, _, _): [state.sequence(named: name)?.record.id]
            case .fork(let name, let newName, _, _):
                [name, newName].map { state.sequence(named: $0)?.record.id }
            case .claim(let id, _): [id]
            case .registerModel, .removeModel, .listModels, .listSequences, .close, .pin, .unpin: []
            }
        eviction.used(used.compactMap(\.self), at: now)
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
