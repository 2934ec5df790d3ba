// SPDX-License-Identifier: Apache-2.0

public import DCPCore
internal import DCPWire

/// An operation on its way to ranks.
struct PendingOperation: Sendable {
    var operation: DirectoryOperation
    /// Ranks that have neither confirmed nor permanently refused it.
    var awaited: Set<RankIndex>
    /// Ranks that have refused it: dependent operations wait there until it has ended everywhere.
    var refusedBy: Set<RankIndex> = []
    /// The clients to answer when all have confirmed; none for a reconciliation.
    var waiters: [ItemWaiter] = []
    /// The sequence that it creates, for the client that gets a claim on it.
    var new: NewSequence?
    /// The first permanent refusal.
    var refusal: ServiceError?
}

/// Operations are recorded first, then sent to the ranks, and sent again at a rejoin until they are confirmed.
///
/// An operation that creates something (a model, a sequence, a fork) ends when any rank refuses it; it is undone
/// everywhere, and the client gets the error. A claim also ends, but there is nothing to undo, and nothing is recorded.
/// An operation that releases something (a truncation, a closing, a removal), and any operation of a join, is repeated
/// while a rank cannot apply it *now*. Each rank's `OperationQueue` determines the order. In a join nothing is undone,
/// because clients were told that it is recorded. An operation that a rank refuses permanently stays pending, and the
/// next join repeats it.
extension CoordinatorMachine {
    /// Brings the ranks of a new epoch to the same state, piece by piece.
    public mutating func goOn(now: Duration) -> [Action] {
        guard reconciliation != nil else { return [] }
        if eviction.countReports(atMost: joinPieceCount) { return [.goOn] }
        guard reconciliation!.isComplete else {
            reconciliation!.advance(state)
            return (reconciliation!.isComplete ? found(reconciliation!, now: now) : []) + [.goOn]
        }
        let pieces = reconciliation!.takeOperations()
        for (rank, operations) in pieces {
            for operation in operations { begin(PendingOperation(operation: operation, awaited: [rank])) }
        }
        let actions = sendQueued()
        guard pieces.isEmpty else { return actions + [.goOn] }
        reconciliation = nil
        return actions + finishReconciliationIfDone()
    }

    /// The ranks' operations are known, and none has been sent yet.
    private mutating func found(_ plan: Reconciliation, now: Duration) -> [Action] {
        owed = plan.owed
        note(unknown: plan.unknown, now: now)
        return plan.events.map { .report($0) } + noteCuts(plan.cutLengths)
    }

    /// In this epoch, even if they were requested in an earlier one: a rank's store has seen this epoch before it cuts.
    private mutating func noteCuts(_ lengths: [SequenceID: Int]) -> [Action] {
        persist(
            lengths.sorted { $0.key < $1.key }.compactMap { id, length in
                guard var entry = state.sequences[id] else { return nil }
                entry.history.note(length, in: state.epoch)
                return entry == state.sequences[id] ? nil : .sequence(entry)
            })
    }

    private mutating func begin(_ pending: PendingOperation) {
        let number = takeNumber()
        operations[number] = pending
        if case .claim = pending.operation { claims.underWay += 1 }
        for id in pending.operation.sequences { underWay[id, default: 0] += 1 }
        let model = pending.operation.sequence.flatMap { state.sequences[$0]?.record.model }
        for rank in pending.awaited {
            queues[rank, default: OperationQueue(window: operationWindow)].append(number, pending.operation, of: model)
        }
    }

    private mutating func end(_ number: UInt64) {
        guard let pending = operations.removeValue(forKey: number) else { return }
        if case .claim = pending.operation { claims.underWay -= 1 }
        for id in pending.operation.sequences {
            underWay[id]! -= 1
            if underWay[id] == 0 { underWay[id] = nil }
        }
        for rank in pending.refusedBy { queues[rank]!.remove(number) }
    }

    private mutating func dropOperations() {
        operations = [:]
        claims.underWay = 0
        underWay = [:]
        queues = [:]
        owed = []
        reconciliation = nil
    }

    private mutating func sendQueued(to rank: RankIndex) -> [Action] {
        guard copying == nil, case .present(let member) = slots[rank], let sendable = queues[rank]?.takeSendable(),
            !sendable.isEmpty
        else { return [] }
        return tellDirectoryMark(to: rank)
            + sendable.map { .send(.operation($0.operation), number: $0.number, to: member.link) }
    }

    mutating func sendQueued() -> [Action] { state.shape.allRanks.flatMap { sendQueued(to: $0) } }

    /// Sends a recorded operation to all ranks.
    mutating func carry(_ operation: DirectoryOperation, for waiter: ItemWaiter? = nil) -> [Action] {
        begin(
            PendingOperation(
                operation: operation, awaited: Set(state.shape.allRanks), waiters: waiter.map { [$0] } ?? []))
        return sendQueued()
    }

    /// Sends an operation that creates a sequence to all ranks, and then the first claim on it.
    mutating func carry(
        _ operation: DirectoryOperation, thenClaim sequence: MatchedSequence, for match: PendingMatch
    ) -> [Action] {
        begin(
            PendingOperation(
                operation: operation, awaited: Set(state.shape.allRanks),
                new: NewSequence(sequence: sequence, item: match.item, tag: match.tag, caller: match.caller)))
        return sendQueued()
    }

    /// Sends an operation without a waiting client to some ranks.
    mutating func carry(_ operation: DirectoryOperation, to ranks: Set<RankIndex>) -> [Action] {
        begin(PendingOperation(operation: operation, awaited: ranks))
        return sendQueued()
    }

    /// Lets a client wait for an operation in progress; false if there is none.
    mutating func join(_ waiter: ItemWaiter, where isSame: (DirectoryOperation) -> Bool) -> Bool {
        guard let number = operations.first(where: { isSame($0.value.operation) })?.key else { return false }
        operations[number]!.waiters.append(waiter)
        return true
    }

    public mutating func operationDone(_ link: LinkID, number: UInt64) -> [Action] {
        guard let rank = rank(of: link), queues[rank]?.answered(number) ?? false else { return [] }
        queues[rank]!.remove(number)
        operations[number]!.awaited.remove(rank)
        return sendQueued(to: rank) + finishIfAnswered(number) + copyIfDrained()
    }

    public mutating func operationFailed(_ link: LinkID, number: UInt64, _ error: ServiceError) -> [Action] {
        if matches[number] != nil { return searchFailed(link, number: number, error) }
        if copying?.number == number { return endCopying(error) }
        guard let rank = rank(of: link), queues[rank]?.answered(number) ?? false, let pending = operations[number]
        else { return [] }
        // In a join no client waits for the operation, and its record exists: it stays pending. A rank whose write
        // queue is full has room a moment later.
        if error.isRetryable
            && (phase == .joining || error.code == .overloaded || !pending.operation.isTakenBackWhenRefused)
        {
            queues[rank]!.postpone(number)
            return sendQueued(to: rank) + copyIfDrained()
        }
        operations[number]!.awaited.remove(rank)
        operations[number]!.refusedBy.insert(rank)
        if pending.refusal == nil { operations[number]!.refusal = error }
        return finishIfAnswered(number) + sendQueued(to: rank) + copyIfDrained()
    }

    /// Repeats operations on ranks that could not apply them.
    mutating func resendPostponed() -> [Action] {
        for rank in queues.keys { queues[rank]!.retry() }
        return sendQueued()
    }

    private mutating func finishIfAnswered(_ number: UInt64) -> [Action] {
        guard let pending = operations[number], pending.awaited.isEmpty else { return [] }
        end(number)
        if case .evict(let id) = pending.operation { eviction.ended(id) }
        var actions = pending.refusedBy.isEmpty ? [] : sendQueued()
        if let refusal = pending.refusal {
            actions.append(.report(.operationFailed(pending.operation, refusal)))
            actions += phase == .joining ? keepOwed(pending.operation) : takeBack(pending.operation)
            for waiter in pending.waiters { actions += refuse(waiter.place, refusal) }
            if let new = pending.new { actions += refuse(new.item.place, refusal) }
        } else {
            // A reconciliation's operations are confirmed together, because several ranks may have the same pending
            // one.
            if case .ready = phase { actions += persist(changes(whenConfirmed: pending.operation)) }
            for waiter in pending.waiters { actions += answer(waiter) }
            if let new = pending.new { actions += claimNew(new) }
        }
        return actions + finishReconciliationIfDone()
    }

    /// Changes that are no longer pending on any rank.
    private func changes(whenConfirmed operation: DirectoryOperation) -> [StateChange] {
        switch operation {
        case .putModel, .removeModel, .open, .claim, .retain: return []
        case .fork(_, let child, _, _):
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

    /// Undoes the record of a refused operation, and its effects on some ranks.
    private mutating func takeBack(_ operation: DirectoryOperation) -> [Action] {
        switch operation {
        case .removeModel, .close, .evict, .claim, .retain: return []
        case .truncate: return persist(changes(whenConfirmed: operation))
        case .putModel(let record):
            // Sequences were opened while it was on its way. Without their model nobody could open them, and no rank
            // that lacks them could be asked to close them. They are closed before it is removed.
            let users = state.sortedSequences.filter { $0.record.model == record.id && !$0.isClosing }
            let closings = users.map { user in
                var entry = user
                entry.isClosing = true
                return StateChange.sequence(entry)
            }
            return persist([.modelRemoved(record.id)] + closings)
                + users.flatMap { carry(.close($0.record.id)) } + carry(.removeModel(record.id))
        case .open, .fork:
            // One that is being closed already went with its model.
            guard let id = operation.sequence, var entry = state.sequences[id], !entry.isClosing else { return [] }
            entry.isClosing = true
            return persist([.sequence(entry)]) + carry(.close(id))
        }
    }

    /// A rank has permanently refused a pending operation. The record stays, so the next join repeats it: a truncation
    /// succeeds when the damage in its way is gone. Until then the sequence is longer there than elsewhere, and accepts
    /// no tokens.
    private mutating func keepOwed(_ operation: DirectoryOperation) -> [Action] {
        if let id = operation.sequence { owed.remove(id) }
        // The rank has found that the part of the parent that a fork needs is damaged. It reports this when it
        // registers, and the next join creates the fork with the parent's intact length; without another join only some
        // ranks would have the sequence. If the same length was refused before, the cause is different, and a join does
        // not help.
        guard case .fork(_, let child, let length, _) = operation, length < refusedForks[child] ?? .max else {
            return []
        }
        refusedForks[child] = length
        dropOperations()
        return join()
    }

    private mutating func finishReconciliationIfDone() -> [Action] {
        guard case .joining = phase, reconciliation == nil, operations.isEmpty,
            members.allSatisfy({ $0.member.hasJoined })
        else { return [] }
        // In one transaction, however many there are.
        let changes = owed.sorted().compactMap { id -> StateChange? in
            guard var entry = state.sequences[id] else { return nil }
            if state.isClosing(entry) { return .sequenceRemoved(id) }
            entry.fork = nil
            entry.truncateLength = nil
            return .sequence(entry)
        }
        owed = []
        return persist(changes) + becomeReadyIfDone()
    }

    /// A rank is lost: its pending operations are sent from the record when it is back.
    mutating func abandonOperations(lost rank: RankIndex) -> [Action] {
        let abandoned = operations.sorted { $0.key < $1.key }
        dropOperations()
        eviction.abandon()
        let lost = ServiceError(.rankUnavailable, "\(rank) was lost. Try again when it is back.", rank: rank)
        return endCopying(lost)
            + abandoned.flatMap { _, pending in
                let outlook: String
                if case .claim = pending.operation {
                    outlook = "Try again when \(rank) is back."
                } else {
                    outlook = "The request is recorded and will be carried out when \(rank) is back."
                }
                let error = ServiceError(
                    .rankUnavailable, "\(rank) was lost before it confirmed. \(outlook)", rank: rank)
                return pending.waiters.flatMap { refuse($0.place, error) }
                    + (pending.new.map { refuse($0.item.place, error) } ?? [])
            } + abandonMatches(lost)
    }

    /// Numbers of different epochs differ: a late answer confirms nothing else, also after the coordinator restarted.
    mutating func takeNumber() -> UInt64 {
        defer { nextOperation += 1 }
        return state.epoch.value << 32 | nextOperation
    }
}

extension DirectoryOperation {
    /// The sequences it makes, changes or reads.
    var sequences: [SequenceID] {
        if case .fork(let parent, let child, _, _) = self { return [parent, child] }
        return sequence.map { [$0] } ?? []
    }

    /// The sequence it makes or changes.
    var sequence: SequenceID? {
        switch self {
        case .putModel, .removeModel: nil
        case .open(let record): record.id
        case .fork(_, let id, _, _), .truncate(let id, _), .close(let id), .evict(let id), .claim(let id, _, _),
            .retain(let id, _):
            id
        }
    }

    /// Whether any refusal, temporary or permanent, ends the operation: the client gets the error and may retry. The
    /// others release something, cannot be undone, and are repeated until they succeed.
    var isTakenBackWhenRefused: Bool {
        switch self {
        case .putModel, .open, .fork, .claim: true
        case .removeModel, .truncate, .close, .evict, .retain: false
        }
    }
}
