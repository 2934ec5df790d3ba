// SPDX-License-Identifier: Apache-2.0

package import DCPCore
package import DCPWire

/// A request for the longest stored prefix of some token ids, while ranks search for it.
///
/// Any one rank searches, because all have the same ids for their committed tokens. While a commit is in progress, a
/// sequence may be longer there than elsewhere; so all other ranks are asked for its length, and the smallest counts.
/// Only the coordinator cuts or closes committed tokens, so this length holds until it forks.
struct PendingMatch: Sendable {
    var request: OpenMatching
    var item: PendingItem<OpenMatching>
    var tag: Tag
    var caller: Caller
    var model: ModelRecord
    /// Found, but not on every rank, or gone since.
    var excluded: [SequenceID] = []
    var found: HeldLength?
    /// Ranks that were asked.
    var awaited: Set<RankIndex> = []
}

extension OpenMatching: DirectoryItem {
    package func carryOut(
        on machine: inout CoordinatorMachine, _ item: PendingItem<Self>, from tag: Tag, now: Duration
    ) throws(ServiceError) -> [CoordinatorMachine.Action] {
        try machine.checkReady()
        try machine.check(name: name, of: "sequence")
        try machine.check(scope: scope)
        let model = try machine.model(model)
        try model.check(revision: revision)
        _ = try machine.newSequence(name, model: model.id, scope: scope)
        guard machine.matches.count < CoordinatorMachine.matchesMax else {
            throw ServiceError(
                .overloaded,
                "\(machine.matches.count) requests are waiting for a match, but the limit is "
                    + "\(CoordinatorMachine.matchesMax); try again in a moment.")
        }
        return machine.search(
            PendingMatch(
                request: self, item: item, tag: tag, caller: machine.caller(of: item.place), model: model))
    }
}

extension CoordinatorMachine {
    static let matchesMax = 1024
    /// Number of sequences found to be gone before the search is abandoned.
    private static let excludedMax = 16

    /// Asks the ranks in turn to spread the searches.
    mutating func search(_ match: PendingMatch) -> [Action] {
        let number = takeNumber()
        let ranks = members
        let (rank, member) = ranks[Int(number % UInt64(ranks.count))]
        var match = match
        match.found = nil
        match.awaited = [rank]
        matches[number] = match
        let question = MatchQuestion(
            model: match.model.id, scope: match.request.scope, ids: match.request.ids, excluding: match.excluded)
        return [.send(.matchRequest(question), number: number, to: member.link)]
    }

    /// A rank has searched.
    package mutating func matched(
        _ link: LinkID, number: UInt64, _ found: HeldLength?, now: Duration
    ) -> [Action] {
        guard let match = takeMatch(link, number) else { return [] }
        guard let found, found.length > 0 else { return open(match, now: now) }
        return check(match, found, now: now)
    }

    /// A rank has reported its length of the sequence that another has found.
    package mutating func lengths(
        _ link: LinkID, number: UInt64, _ lengths: [HeldLength], now: Duration
    ) -> [Action] {
        guard var match = takeMatch(link, number), var found = match.found else { return [] }
        guard let held = lengths.first(where: { $0.sequence == found.sequence }), held.length > 0 else {
            return searchAgain(match, without: found.sequence, now: now)
        }
        found.length = min(found.length, held.length)
        match.found = found
        guard match.awaited.isEmpty else {
            matches[number] = match
            return []
        }
        return fork(match, found, now: now)
    }

    /// A rank cannot search now.
    mutating func searchFailed(_ link: LinkID, number: UInt64, _ error: ServiceError) -> [Action] {
        takeMatch(link, number).map { refuse($0.item.place, error) } ?? []
    }

    /// A rank is lost: requests that wait for it fail.
    mutating func abandonMatches(_ error: ServiceError) -> [Action] {
        let abandoned = matches.sorted { $0.key < $1.key }
        matches = [:]
        return abandoned.flatMap { refuse($0.value.item.place, error) }
    }

    /// One of the ranks that a match waits for has answered; nil if there is no such match, or the client is gone.
    private mutating func takeMatch(_ link: LinkID, _ number: UInt64) -> PendingMatch? {
        guard let rank = rank(of: link), var match = matches[number], match.awaited.remove(rank) != nil else {
            return nil
        }
        matches[number] = nil
        return requests[match.item.place.request] == nil ? nil : match
    }

    private mutating func check(_ match: PendingMatch, _ found: HeldLength, now: Duration) -> [Action] {
        guard let parent = parent(found.sequence, for: match) else {
            return searchAgain(match, without: found.sequence, now: now)
        }
        // A match is a use: the sequence is not evicted before it is forked.
        eviction.used([parent.record.id], at: now)
        var match = match
        match.found = found
        let number = takeNumber()
        match.awaited = Set(members.map(\.rank))
        matches[number] = match
        return members.map { .send(.lengthsRequest([found.sequence]), number: number, to: $0.member.link) }
    }

    /// The sequence found, unless it is gone, being closed, or of another model or scope.
    private func parent(_ id: SequenceID, for match: PendingMatch) -> SequenceEntry? {
        guard let entry = state.sequences[id], !entry.isClosing, entry.fork == nil, entry.truncateLength == nil,
            entry.record.model == match.model.id, entry.record.scope == match.request.scope
        else { return nil }
        return entry
    }

    private mutating func searchAgain(_ match: PendingMatch, without id: SequenceID, now: Duration) -> [Action] {
        var match = match
        match.excluded.append(id)
        return match.excluded.count > Self.excludedMax ? open(match, now: now) : search(match)
    }

    private mutating func fork(_ match: PendingMatch, _ found: HeldLength, now: Duration) -> [Action] {
        guard let parent = parent(found.sequence, for: match) else {
            return searchAgain(match, without: found.sequence, now: now)
        }
        let length = min(found.length, match.request.lengthMax)
        do throws(ServiceError) {
            let (record, actions) = try fork(parent, as: match.request.name, length: length, by: match.caller)
            noteUse(of: record.name, now: now)
            return actions
                + carry(
                    .fork(parent: parent.record.id, child: record.id, length: length, name: record.name),
                    thenClaim: MatchedSequence(sequence: record, model: match.model, length: length), for: match)
        } catch {
            return refuse(match.item.place, error)
        }
    }

    /// Nothing is stored of the ids.
    private mutating func open(_ match: PendingMatch, now: Duration) -> [Action] {
        do throws(ServiceError) {
            let request = match.request
            guard state.models[match.model.id] != nil else {
                throw ServiceError(
                    .unknownModel,
                    "Model `\(match.model.name)` was removed while ranks searched for `\(request.name)`; register it "
                        + "again.")
            }
            let record = try newSequence(request.name, model: match.model.id, scope: request.scope)
            eviction.opened(record.name)
            let actions = persist([
                .sequence(SequenceEntry(record, ownedBy: match.caller)), nextIDs(afterSequence: record.id),
            ])
            noteUse(of: record.name, now: now)
            return actions
                + carry(
                    .open(record),
                    thenClaim: MatchedSequence(sequence: record, model: match.model, length: 0), for: match)
        } catch {
            return refuse(match.item.place, error)
        }
    }

    /// The new sequence is on every rank: its client gets the first claim.
    mutating func claimNew(_ new: NewSequence) -> [Action] {
        let claim = Claim(in: state.epoch, number: takeNumber() & 0xFFFF_FFFF)
        claims.take(claim, of: new.sequence.sequence.id, for: new.tag)
        var answer = new.sequence
        answer.claim = claim
        return carry(
            .claim(answer.sequence.id, claim, holder: new.caller.identity), for: new.item.answer(answer))
    }
}

/// A sequence that is being created for a client, whose answer includes its first claim.
struct NewSequence: Sendable {
    var sequence: MatchedSequence
    var item: PendingItem<OpenMatching>
    var tag: Tag
    var caller: Caller
}
