// SPDX-License-Identifier: Apache-2.0

public import DCPCore
public import DCPWire

/// Full stores: every rank gets the same refusals, and sequences are evicted if the policy says so.
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

    /// Sends every rank the refusals of others, so that none accepts new tokens.
    mutating func tellRefusals() -> [Action] {
        let all = refusals.sorted { $0.key < $1.key }.map(\.value)
        return members.map { .send(.refusals(all), number: 0, to: $0.member.link) }
    }

    /// A rank is lost, and its refusal with it.
    mutating func forgetRoom(of rank: RankIndex) -> [Action] {
        eviction.forget(rank)
        return refusals.removeValue(forKey: rank) == nil ? [] : tellRefusals()
    }

    private mutating func evictIfDue(now: Duration) -> [Action] {
        guard phase == .ready, eviction.isDue else { return [] }
        let candidates = eviction.candidates(among: state.sequences.values.lazy.filter(isMovable), now: now)
        guard !candidates.isEmpty else { return [] }
        let number = takeNumber()
        let (ranks, told) = eviction.ask(number, candidates)
        return members.filter { ranks.contains($0.rank) }.map {
            .send(.victimsRequest(told), number: number, to: $0.member.link)
        }
    }

    /// A rank names the sequences to close for the space that it needs.
    public mutating func victims(
        _ link: LinkID, number: UInt64, _ sequences: [SequenceID], now: Duration
    ) -> [Action] {
        guard let rank = rank(of: link), phase == .ready,
            let chosen = eviction.answered(rank, number, sequences),
            let (mostWanting, byteCount) = eviction.mostWanted
        else { return [] }
        // Some may have been used, pinned or forked since the request to the ranks.
        let movable = chosen.compactMap { state.sequences[$0] }.filter(isMovable)
        let victims = eviction.candidates(among: movable, now: now).map { state.sequences[$0]! }
        return evict(victims, .room(mostWanting, byteCount: byteCount))
    }

    /// Sequences past their time to live.
    mutating func evictAged(now: Duration) -> [Action] {
        guard phase == .ready else { return [] }
        var actions: [Action] = []
        for id in ages.take(now: now) {
            guard let entry = state.sequences[id], let end = eviction.endOfLife(of: entry) else { continue }
            if end > now {
                ages.put(id, at: end)
            } else if isMovable(entry) {
                actions += evict([entry], .age(entry.retention.timeToLive))
            } else {
                noteAge(of: entry, notBefore: now + .seconds(1))
            }
        }
        return actions
    }

    /// Schedules a sequence's check for age. A pinned sequence is not scheduled until it is unpinned.
    mutating func noteAge(of entry: SequenceEntry, notBefore time: Duration = .zero) {
        if let end = eviction.endOfLife(of: entry), !entry.isClosing, !entry.retention.isPinned {
            ages.put(entry.record.id, at: max(end, time))
        } else {
            ages.remove(entry.record.id)
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

    /// Whether it may be closed: a sequence that an operation is about to change, or a fork is about to read, is in
    /// use.
    private func isMovable(_ entry: SequenceEntry) -> Bool {
        !entry.isClosing && !entry.retention.isPinned && entry.fork == nil && underWay[entry.record.id] == nil
            && !entry.record.isCanary
    }

    /// A client is about to use sequences.
    mutating func noteUse(of names: String..., now: Duration) {
        eviction.used(names.compactMap { state.sequence(named: $0)?.record.id }, at: now)
    }
}
