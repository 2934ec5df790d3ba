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
            actions += carry(.evict(id))
        }
        return actions
    }

    /// What may go, the least recently used first.
    private func evictable(now: Duration) -> [SequenceEntry] {
        // What an operation is about to change, or a fork is about to read, is in use.
        let entries = state.sequences.values.filter {
            !$0.isClosing && !$0.retention.isPinned && $0.fork == nil && underWay[$0.record.id] == nil
                && !CanaryNames.isSequence($0.record.name)
        }
        return eviction.candidates(among: entries, now: now)
    }

    /// A client is about to use sequences.
    mutating func noteUse(of names: String..., now: Duration) {
        guard eviction.policy != .off else { return }
        eviction.used(names.compactMap { state.sequence(named: $0)?.record.id }, at: now)
    }
}
