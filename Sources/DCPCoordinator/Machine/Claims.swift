// SPDX-License-Identifier: Apache-2.0

internal import DCPCore
internal import DCPWire

/// The latest claim of each sequence, as a value.
///
/// Requests that a client sent before it died, or before another took over its sequence, may arrive at any time. They
/// could remove tokens that the successor relies on, or be answered from the successor's tokens. The successor
/// therefore claims the sequence first: from then on requests with older claims are refused here, and on each rank as
/// soon as it learns of the claim. The claim is answered when all ranks have confirmed it, and it is queued after every
/// operation accepted before. Claims are not persisted. Their numbers rise over restarts with the epoch, and a sequence
/// without a known claim accepts no request: its client claims it again.
struct Claims: Sendable {
    /// Maximum number of claims on their way to ranks; further ones are `overloaded`.
    static let underWayMax = 4096

    private var latest: [SequenceID: (claim: Claim, tag: Tag)] = [:]
    var underWay = 0

    func latest(of sequence: SequenceID) -> Claim? { latest[sequence]?.claim }

    /// Whether another client has claimed the sequence since; a claim of the same client, whose answer was lost, does
    /// not count.
    func isOverruled(_ held: Claim, of sequence: SequenceID, by client: ClientID) -> Bool {
        guard let latest = latest[sequence] else { return false }
        return latest.claim > held && latest.tag.client != client
    }

    /// Whether the request for a claim is older than that of the latest claim, and arrives late over a connection that
    /// its client has abandoned. It would take the sequence away from its own sender.
    func isLate(_ tag: Tag, for sequence: SequenceID) -> Bool {
        guard let latest = latest[sequence]?.tag else { return false }
        return latest.client == tag.client && latest.number > tag.number
    }

    mutating func take(_ claim: Claim, of sequence: SequenceID, for tag: Tag) { latest[sequence] = (claim, tag) }

    /// The sequence is gone; its number is never reused.
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
                    + "again in a moment.")
        }
        let claim = Claim(in: state.epoch, number: takeNumber() & 0xFFFF_FFFF)
        claims.take(claim, of: id, for: tag)
        return carry(.claim(id, claim, holder: caller.identity), for: item.answer(claim))
    }

    /// Refuses a request whose sender has lost the sequence.
    func check(_ claim: Claim, of entry: SequenceEntry) throws(ServiceError) {
        let latest = claims.latest(of: entry.record.id)
        guard latest != claim else { return }
        if let latest, latest > claim { throw claimedSince(claim, entry) }
        throw ServiceError(
            .staleEpoch,
            "\(claim) on sequence `\(entry.record.name)` dates from before the coordinator's restart; nothing changed. "
                + "Claim the sequence again.")
    }

    private func claimedSince(_ claim: Claim, _ entry: SequenceEntry) -> ServiceError {
        ServiceError(
            .claimed,
            "Sequence `\(entry.record.name)` was claimed by another client after \(claim); nothing changed. Only one "
                + "client at a time may use a sequence; resume it to take it over.")
    }
}
