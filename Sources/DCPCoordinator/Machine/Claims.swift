internal import DCPCore
internal import DCPWire

/// Who may change each sequence, as a value: the latest claim, and who waits for theirs to be answered.
///
/// A request to truncate, fork or close that a client sent before it died may come after its successor has resumed the
/// sequence and committed. It would take tokens away that the successor was told are there. So the successor claims the
/// sequence first: from then on requests of older claims are refused, and its answer waits until those that were taken
/// before are carried out on all ranks.
///
/// Claims are not persisted. Their numbers rise over restarts with the epoch, and a sequence without a known claim takes
/// no request: whoever held one claims it anew.
struct Claims: Sendable {
    struct Waiting: Sendable {
        var requester: PendingOperation.Requester
        var sequence: SequenceID
        var claim: Claim
    }

    /// One more is `overloaded`.
    static let waitingMax = 4096

    private var latest: [SequenceID: Claim] = [:]
    private(set) var waiting: [Waiting] = []

    func isLatest(_ claim: Claim, of sequence: SequenceID) -> Bool { latest[sequence] == claim }

    mutating func take(_ claim: Claim, of sequence: SequenceID) { latest[sequence] = claim }

    mutating func wait(_ one: Waiting) { waiting.append(one) }

    /// Those for whom nothing is under way any more, in the order of their requests.
    mutating func takeWaiting(where isReady: (SequenceID) -> Bool = { _ in true }) -> [Waiting] {
        let ready = waiting.filter { isReady($0.sequence) }
        waiting.removeAll { isReady($0.sequence) }
        return ready
    }

    mutating func forget(_ link: CoordinatorMachine.LinkID) { waiting.removeAll { $0.requester.link == link } }

    /// The sequence is gone; its number is never given again.
    mutating func closed(_ sequence: SequenceID) { latest[sequence] = nil }
}

extension CoordinatorMachine {
    mutating func claim(_ name: String, _ requester: PendingOperation.Requester) throws(ServiceError) -> [Action] {
        let entry = try sequence(name)
        let id = entry.record.id
        guard claims.waiting.count < Claims.waitingMax else {
            throw ServiceError(
                .overloaded,
                "\(claims.waiting.count) clients wait to claim sequences, the limit is \(Claims.waitingMax); try again in "
                    + "a moment.")
        }
        let claim = Claim(in: state.epoch, number: takeNumber() & 0xFFFF_FFFF)
        claims.take(claim, of: id)
        claims.wait(Claims.Waiting(requester: requester, sequence: id, claim: claim))
        return answerClaims()
    }

    /// Answers the claims before which nothing is under way any more.
    mutating func answerClaims() -> [Action] {
        guard !claims.waiting.isEmpty else { return [] }
        return claims.takeWaiting { [underWay] in underWay[$0] == nil }.map { waiting in
            let requester = waiting.requester
            guard let entry = state.sequences[waiting.sequence], !entry.isClosing else {
                let error = ServiceError(
                    .unknownSequence,
                    "\(waiting.sequence) was closed while it was being claimed; `dcpctl sequence list` shows those there are."
                )
                return .answer(.failure(error), requester.tag, to: requester.link)
            }
            let reply = DirectoryReply(sequences: [entry.record], claim: waiting.claim)
            return .answer(.directoryReply(reply), requester.tag, to: requester.link)
        }
    }

    /// Refuses what its sender has lost the sequence for, or lost it before it came.
    func check(_ claim: Claim, of entry: SequenceEntry) throws(ServiceError) {
        guard !claims.isLatest(claim, of: entry.record.id) else { return }
        throw ServiceError(
            .claimed,
            "Sequence `\(entry.record.name)` was claimed by another client, or the coordinator restarted, after \(claim) "
                + "was given; nothing was changed. Resume the sequence, then ask again.")
    }
}
