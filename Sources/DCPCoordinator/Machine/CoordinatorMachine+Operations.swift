public import DCPCore
internal import DCPWire

/// An operation on its way to ranks.
struct PendingOperation: Sendable {
    struct Requester: Sendable {
        var link: CoordinatorMachine.LinkID
        var tag: Tag
    }

    var operation: DirectoryOperation
    var awaited: Set<RankIndex>
    /// The client to be told; nil for a reconciliation, or when it has gone.
    var requester: Requester?
    var reply = DirectoryReply()
    /// Made durable when every rank has confirmed.
    var whenDone: [StateChange] = []
    /// Made durable when a rank has refused for good.
    var whenRefused: [StateChange] = []
    var refusal: ServiceError?
}

/// Operations are recorded first, then carried to the ranks, and again at a rejoin while they are not confirmed.
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
        reconciliationChanges = plan.changes
        return actions + finishReconciliationIfDone()
    }

    /// Carries a recorded operation to all ranks.
    mutating func carry(_ pending: PendingOperation) -> [Action] {
        var pending = pending
        pending.awaited = Set(state.shape.allRanks)
        let number = takeNumber()
        operations[number] = pending
        return members.map { .send(.operation(pending.operation), number: number, to: $0.member.link) }
    }

    public mutating func operationDone(_ link: LinkID, number: UInt64) -> [Action] {
        guard let rank = rank(of: link), operations[number] != nil else { return [] }
        operations[number]!.awaited.remove(rank)
        return finishIfAnswered(number)
    }

    public mutating func operationFailed(_ link: LinkID, number: UInt64, _ error: ServiceError) -> [Action] {
        guard let rank = rank(of: link), operations[number] != nil else { return [] }
        operations[number]!.awaited.remove(rank)
        // A refusal for good outweighs a failure that may pass.
        if operations[number]!.refusal.map({ $0.isRetryable }) ?? true { operations[number]!.refusal = error }
        return finishIfAnswered(number)
    }

    private mutating func finishIfAnswered(_ number: UInt64) -> [Action] {
        guard let pending = operations[number], pending.awaited.isEmpty else { return [] }
        operations[number] = nil
        var actions: [Action] = []
        if let refusal = pending.refusal {
            actions.append(.report(.operationFailed(pending.operation, refusal)))
            if !refusal.isRetryable { actions += persist(pending.whenRefused) }
            if let requester = pending.requester {
                actions.append(.answer(.failure(refusal), requester.tag, to: requester.link))
            }
            // Some ranks may have made the fork: it is taken away again, everywhere.
            if case .fork(_, let child, _) = pending.operation, !refusal.isRetryable, case .ready = phase {
                actions += carry(
                    PendingOperation(operation: .close(child), awaited: [], whenDone: [.sequenceRemoved(child)]))
            }
            return actions + finishReconciliationIfDone()
        }
        actions += persist(pending.whenDone)
        if let requester = pending.requester {
            actions.append(.answer(.directoryReply(pending.reply), requester.tag, to: requester.link))
        }
        return actions + finishReconciliationIfDone()
    }

    private mutating func finishReconciliationIfDone() -> [Action] {
        guard case .joining = phase, operations.isEmpty, members.allSatisfy({ $0.member.hasJoined }) else { return [] }
        let changes = reconciliationChanges
        reconciliationChanges = []
        return persist(changes) + becomeReadyIfDone()
    }

    /// A rank is lost: what it owed is carried to it when it is back, from what is recorded.
    mutating func abandonOperations(lost rank: RankIndex) -> [Action] {
        let abandoned = operations.sorted { $0.key < $1.key }
        operations = [:]
        reconciliationChanges = []
        return abandoned.compactMap { _, pending in
            pending.requester.map { requester in
                .answer(
                    .failure(
                        ServiceError(
                            .rankUnavailable,
                            "\(rank) was lost before it confirmed. The request is recorded and will be carried out when "
                                + "\(rank) is back.", rank: rank)), requester.tag, to: requester.link)
            }
        }
    }

    private mutating func takeNumber() -> UInt64 {
        defer { nextOperation += 1 }
        return nextOperation
    }
}
