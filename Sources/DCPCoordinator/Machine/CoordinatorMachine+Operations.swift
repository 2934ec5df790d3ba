public import DCPCore
internal import DCPWire

/// An operation on its way to ranks.
struct PendingOperation: Sendable {
    struct Requester: Sendable {
        var link: CoordinatorMachine.LinkID
        var tag: Tag
    }

    var operation: DirectoryOperation
    /// Who has not confirmed.
    var awaited: Set<RankIndex>
    /// Of these, who answered that it cannot now, and is asked again at the next tick.
    var postponed: Set<RankIndex> = []
    /// The clients to be told; none for a reconciliation, or when they have gone.
    var requesters: [Requester] = []
    var reply = DirectoryReply()
    /// The first refusal for good.
    var refusal: ServiceError?
}

/// Operations are recorded first, then carried to the ranks, and again at a rejoin while they are not confirmed.
///
/// What makes something (a model, a sequence, a fork) ends when any rank refuses it, is taken back everywhere, and the
/// client is told. What gives something back (a truncation, a closing, a removal), and whatever a join owes, is asked for
/// again while a rank cannot carry it out *now*.
extension CoordinatorMachine {
    /// Brings the ranks of a new epoch to one state.
    mutating func reconcile() -> [Action] {
        let plan = Reconciliation(
            state, Dictionary(uniqueKeysWithValues: members.map { ($0.rank, $0.member.registration) }))
        var actions: [Action] = plan.events.map { .report($0) }
        for (rank, member) in members {
            for operation in plan.operations[rank] ?? [] {
                let number = takeNumber()
                operations[number] = PendingOperation(operation: operation, awaited: [rank])
                actions.append(.send(.operation(operation), number: number, to: member.link))
            }
        }
        unconfirmed = plan.unconfirmed
        return actions + finishReconciliationIfDone()
    }

    /// Carries a recorded operation to all ranks.
    mutating func carry(
        _ operation: DirectoryOperation, for requester: PendingOperation.Requester?, reply: DirectoryReply
    ) -> [Action] {
        let number = takeNumber()
        operations[number] = PendingOperation(
            operation: operation, awaited: Set(state.shape.allRanks), requesters: requester.map { [$0] } ?? [],
            reply: reply)
        return members.map { .send(.operation(operation), number: number, to: $0.member.link) }
    }

    /// Carries an operation that nobody waits for to some ranks.
    mutating func carry(_ operation: DirectoryOperation, to ranks: Set<RankIndex>) -> [Action] {
        let number = takeNumber()
        operations[number] = PendingOperation(operation: operation, awaited: ranks)
        return members.filter { ranks.contains($0.rank) }.map {
            .send(.operation(operation), number: number, to: $0.member.link)
        }
    }

    /// Lets a client wait for an operation that is on its way already; false when there is none.
    mutating func join(
        _ requester: PendingOperation.Requester, where isSame: (DirectoryOperation) -> Bool
    ) -> Bool {
        guard let number = operations.first(where: { isSame($0.value.operation) })?.key else { return false }
        operations[number]!.requesters.append(requester)
        return true
    }

    public mutating func operationDone(_ link: LinkID, number: UInt64) -> [Action] {
        guard let rank = rank(of: link), operations[number] != nil else { return [] }
        operations[number]!.awaited.remove(rank)
        return finishIfAnswered(number)
    }

    public mutating func operationFailed(_ link: LinkID, number: UInt64, _ error: ServiceError) -> [Action] {
        guard let rank = rank(of: link), let pending = operations[number] else { return [] }
        // In a join no client waits for the operation, and the record it comes from is older: it stays owed.
        if error.isRetryable && (phase == .joining || !pending.operation.isTakenBackWhenRefused) {
            operations[number]!.postponed.insert(rank)
            return []
        }
        operations[number]!.awaited.remove(rank)
        if pending.refusal == nil { operations[number]!.refusal = error }
        return finishIfAnswered(number)
    }

    /// Asks the ranks again that could not carry an operation out.
    mutating func resendPostponed() -> [Action] {
        var actions: [Action] = []
        for (number, pending) in operations.sorted(by: { $0.key < $1.key }) where !pending.postponed.isEmpty {
            for (rank, member) in members where pending.postponed.contains(rank) {
                actions.append(.send(.operation(pending.operation), number: number, to: member.link))
            }
            operations[number]!.postponed = []
        }
        return actions
    }

    private mutating func finishIfAnswered(_ number: UInt64) -> [Action] {
        guard let pending = operations[number], pending.awaited.isEmpty else { return [] }
        operations[number] = nil
        if case .evict(let id) = pending.operation { eviction.ended(id) }
        var actions: [Action] = []
        if let refusal = pending.refusal {
            actions.append(.report(.operationFailed(pending.operation, refusal)))
            if let id = pending.operation.sequence { unconfirmed = unconfirmed.filter { $0.sequence != id } }
            actions += takeBack(pending.operation)
            actions += pending.requesters.map { .answer(.failure(refusal), $0.tag, to: $0.link) }
        } else {
            // A reconciliation's operations are confirmed together: the same one may be owed by several ranks.
            if case .ready = phase { actions += persist(changes(whenConfirmed: pending.operation)) }
            actions += pending.requesters.map { .answer(.directoryReply(pending.reply), $0.tag, to: $0.link) }
        }
        return actions + answerClaims() + finishReconciliationIfDone()
    }

    /// What is no longer owed to any rank.
    private func changes(whenConfirmed operation: DirectoryOperation) -> [StateChange] {
        switch operation {
        case .putModel, .removeModel, .open: return []
        case .fork(_, let child, _):
            guard var entry = state.sequences[child], entry.fork != nil else { return [] }
            entry.fork = nil
            return [.sequence(entry)]
        case .truncate(let id, let length):
            guard var entry = state.sequences[id], entry.truncateLength == length else { return [] }
            entry.truncateLength = nil
            return [.sequence(entry)]
        case .close(let id), .evict(let id): return state.sequences[id] == nil ? [] : [.sequenceRemoved(id)]
        }
    }

    /// Undoes what a refused operation recorded, and what some ranks may have made of it.
    private mutating func takeBack(_ operation: DirectoryOperation) -> [Action] {
        switch operation {
        case .removeModel, .close, .evict: return []
        case .truncate: return persist(changes(whenConfirmed: operation))
        case .putModel(let record):
            guard case .ready = phase else { return [] }
            return persist([.modelRemoved(record.id)])
                + carry(.removeModel(record.id), for: nil, reply: DirectoryReply())
        case .fork(_, let id, _) where phase == .joining:
            // A rank that missed the fork cannot make it any more. Without it the sequence would be on some ranks only,
            // for good: the next join opens it empty there, and cuts it to that everywhere.
            guard var entry = state.sequences[id], entry.fork != nil else { return [] }
            entry.fork = nil
            operations = [:]
            unconfirmed = []
            return persist([.sequence(entry)]) + join()
        case .open(let id, _), .fork(_, let id, _):
            guard case .ready = phase, var entry = state.sequences[id] else { return [] }
            entry.isClosing = true
            return persist([.sequence(entry)]) + carry(.close(id), for: nil, reply: DirectoryReply())
        }
    }

    private mutating func finishReconciliationIfDone() -> [Action] {
        guard case .joining = phase, operations.isEmpty, members.allSatisfy({ $0.member.hasJoined }) else { return [] }
        let confirmed = unconfirmed
        unconfirmed = []
        return confirmed.sorted { "\($0)" < "\($1)" }.flatMap { persist(changes(whenConfirmed: $0)) }
            + becomeReadyIfDone()
    }

    /// A rank is lost: what it owed is carried to it when it is back, from what is recorded.
    mutating func abandonOperations(lost rank: RankIndex) -> [Action] {
        let abandoned = operations.sorted { $0.key < $1.key }
        operations = [:]
        unconfirmed = []
        eviction.abandon()
        let error = ServiceError(
            .rankUnavailable,
            "\(rank) was lost before it confirmed. The request is recorded and will be carried out when \(rank) is back.",
            rank: rank)
        let requesters = abandoned.flatMap { $0.value.requesters } + claims.takeWaiting().map(\.requester)
        return requesters.map { .answer(.failure(error), $0.tag, to: $0.link) }
    }

    /// Numbers of different epochs differ: a late answer confirms nothing else, also after the coordinator restarted.
    mutating func takeNumber() -> UInt64 {
        defer { nextOperation += 1 }
        return state.epoch.value << 32 | nextOperation
    }
}

extension DirectoryOperation {
    /// Whether it makes, changes or reads a sequence.
    func concerns(_ id: SequenceID) -> Bool {
        if case .fork(id, _, _) = self { return true }
        return sequence == id
    }

    /// The sequence it makes or changes.
    var sequence: SequenceID? {
        switch self {
        case .putModel, .removeModel: nil
        case .open(let id, _), .fork(_, let id, _), .truncate(let id, _), .close(let id), .evict(let id): id
        }
    }

    /// Whether any refusal, for now or for good, ends the operation: the client is told and may ask again. The others
    /// give things back, cannot be undone, and are asked for until they are done.
    var isTakenBackWhenRefused: Bool {
        switch self {
        case .putModel, .open, .fork: true
        case .removeModel, .truncate, .close, .evict: false
        }
    }
}
