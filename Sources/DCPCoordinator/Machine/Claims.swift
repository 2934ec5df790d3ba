internal import DCPCore
internal import DCPWire

/// Who may change each sequence, as a value: the latest claim that was given out.
///
/// What a client sent before it died, or before another took its sequence over, may come at any time. It would take tokens
/// away that the successor was told are there, or be answered over the successor's tokens. So the successor claims the
/// sequence first: from then on requests of older claims are refused here, and on each rank from when it is told. The claim
/// is answered when all ranks have been, and its place in their queues is behind every operation that was taken before.
///
/// Claims are not persisted. Their numbers rise over restarts with the epoch, and a sequence without a known claim takes
/// no request: whoever held one claims it anew.
struct Claims: Sendable {
    /// Claims on their way to ranks. One more is `overloaded`.
    static let underWayMax = 4096

    private var latest: [SequenceID: (claim: Claim, tag: Tag)] = [:]
    var underWay = 0

    func latest(of sequence: SequenceID) -> Claim? { latest[sequence]?.claim }

    /// Whether another client has claimed the sequence since; a claim of the same one, whose answer was lost, is none.
    func isOverruled(_ held: Claim, of sequence: SequenceID, by client: ClientID) -> Bool {
        guard let latest = latest[sequence] else { return false }
        return latest.claim > held && latest.tag.client != client
    }

    /// Whether the request for a claim was sent before the one that the latest was given for, and comes after it: over a
    /// connection that its client has given up. It would take the sequence away from its own sender.
    func isLate(_ tag: Tag, for sequence: SequenceID) -> Bool {
        guard let latest = latest[sequence]?.tag else { return false }
        return latest.client == tag.client && latest.number > tag.number
    }

    mutating func take(_ claim: Claim, of sequence: SequenceID, for tag: Tag) { latest[sequence] = (claim, tag) }

    /// The sequence is gone; its number is never given again.
    mutating func closed(_ sequence: SequenceID) { latest[sequence] = nil }
}

extension CoordinatorMachine {
    mutating func carryOut(_ request: ClaimSequence, _ item: PendingItem<ClaimSequence>, _ tag: Tag)
        throws(ServiceError) -> [Action]
    {
        let id = request.sequence
        guard let entry = state.sequences[id], !entry.isClosing else {
            let name = state.sequences[id]?.record.name
            if let name, eviction.cause(of: name) != nil { throw unknownSequence(name) }
            throw ServiceError(
                .unknownSequence,
                "\(id)\(name.map { ", `\($0)`," } ?? "") is closed or is being closed; open it again by its name.")
        }
        let caller = caller(of: item.place)
        try caller.checkChange(of: "sequence `\(entry.record.name)`", ownedBy: entry.owner)
        guard !claims.isLate(tag, for: id) else {
            throw ServiceError(
                .stepAborted, "\(tag.client) has claimed \(id) with a later request; nothing changed.")
        }
        if request.held != .none, claims.isOverruled(request.held, of: id, by: tag.client) {
            throw claimedSince(request.held, entry)
        }
        guard claims.underWay < Claims.underWayMax else {
            throw ServiceError(
                .overloaded,
                "\(claims.underWay) claims are on their way to ranks, but the limit is \(Claims.underWayMax); try "
                    + "again in a "
                    + "moment.")
        }
        let claim = Claim(in: state.epoch, number: takeNumber() & 0xFFFF_FFFF)
        claims.take(claim, of: id, for: tag)
        return carry(.claim(id, claim, holder: caller.identity), for: item.answer(claim))
    }

    /// Refuses what its sender has lost the sequence for, or lost it before it came.
    func check(_ claim: Claim, of entry: SequenceEntry) throws(ServiceError) {
        let latest = claims.latest(of: entry.record.id)
        guard latest != claim else { return }
        if let latest, latest > claim { throw claimedSince(claim, entry) }
        throw ServiceError(
            .staleEpoch,
            "\(claim) on sequence `\(entry.record.name)` dates from before the coordinator's restart; nothing "
                + "changed. Claim the "
                + "sequence again.")
    }

    private func claimedSince(_ claim: Claim, _ entry: SequenceEntry) -> ServiceError {
        ServiceError(
            .claimed,
            "Sequence `\(entry.record.name)` was claimed by another client after \(claim); nothing changed. Only one "
                + "client at a time may use a sequence; resume it to take it over.")
    }
}
