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
        var actions: [Action] = [.send(.leaseRenewed, number: 0, to: link)] + tellDirectoryMark(to: rank)
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
        return evict(victims, .room(mostWanting, byteCount: byteCount))
    }

    /// Sequences that were not used for longer than they may.
    mutating func evictAged(now: Duration) -> [Action] {
        guard phase == .ready, eviction.isTimeToAge(now: now) else { return [] }
        let mortal = movable { $0.retention.timeToLive > 0 }
        return eviction.aged(among: mortal, now: now).flatMap { entry in
            evict([entry], .age(entry.retention.timeToLive))
        }
    }

    private mutating func evict(_ victims: [SequenceEntry], _ cause: EvictionCause) -> [Action] {
        var actions = persist(
            victims.map { victim in
                var entry = victim
                entry.isClosing = true
                return .sequence(entry)
            })
        for victim in victims {
            eviction.began(victim, cause)
            actions.append(.report(.evicted(victim.record.id, name: victim.record.name, cause)))
            actions += carry(.evict(victim.record.id))
        }
        return actions
    }

    /// What may go, what goes first first.
    private func evictable(now: Duration) -> [SequenceEntry] {
        eviction.candidates(among: movable { _ in true }, now: now)
    }

    /// What may go at all: what an operation is about to change, or a fork is about to read, is in use.
    private func movable(where isWanted: (SequenceEntry) -> Bool) -> [SequenceEntry] {
        state.sequences.values.filter {
            isWanted($0) && !$0.isClosing && !$0.retention.isPinned && $0.fork == nil && underWay[$0.record.id] == nil
                && !CanaryNames.isSequence($0.record.name)
        }
    }

    /// A client is about to use sequences.
    mutating func noteUse(of names: String..., now: Duration) {
        eviction.used(names.compactMap { state.sequence(named: $0)?.record.id }, at: now)
    }
}
