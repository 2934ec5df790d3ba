// SPDX-License-Identifier: Apache-2.0

package import DCPCore
package import DCPWire

extension OpenSequence: DirectoryItem {
    package func carryOut(
        on machine: inout CoordinatorMachine, _ item: PendingItem<Self>, from tag: Tag, now: Duration
    ) throws(ServiceError) -> [CoordinatorMachine.Action] {
        try machine.checkReady()
        try machine.check(name: name, of: "sequence")
        try machine.check(scope: scope)
        if let known = machine.state.sequence(named: name), !known.isClosing {
            return try open(known, on: &machine, item, now: now)
        }
        guard create else { throw machine.unknownSequence(name) }
        let caller = machine.caller(of: item.place)
        try caller.check(.use, for: "a new sequence")
        let record = try machine.model(model)
        try record.check(revision: revision)
        let new = try machine.newSequence(name, model: record.id, scope: scope)
        machine.eviction.opened(name)
        defer { machine.noteUse(of: name, now: now) }
        return machine.persist([.sequence(SequenceEntry(new, ownedBy: caller)), machine.nextIDs(afterSequence: new.id)])
            + machine.carry(.open(new), for: item.answer(OpenedSequence(sequence: new, model: record)))
    }

    private func open(
        _ known: SequenceEntry, on machine: inout CoordinatorMachine, _ item: PendingItem<Self>, now: Duration
    ) throws(ServiceError) -> [CoordinatorMachine.Action] {
        guard let owner = machine.state.models[known.record.model] else {
            throw ServiceError(.internal, "\(known.record.id) has the unknown \(known.record.model).")
        }
        guard NameKey(owner.name) == NameKey(model) || model.isEmpty else {
            throw ServiceError(
                .modelMismatch,
                "Sequence `\(name)` belongs to model `\(owner.name)`, not `\(model)`; choose another name, or this model."
            )
        }
        try owner.check(revision: revision)
        guard scope == known.record.scope || !create else {
            throw ServiceError(
                .conflict,
                "Sequence `\(name)` has scope `\(known.record.scope)`, not `\(scope)`; choose another name or scope.")
        }
        machine.noteUse(of: name, now: now)
        return machine.answer(
            item.answer(OpenedSequence(sequence: known.record, model: owner)), whenOpen: known.record.id)
    }
}

extension OpenCanary: DirectoryItem {
    package func carryOut(
        on machine: inout CoordinatorMachine, _ item: PendingItem<Self>, from tag: Tag, now: Duration
    ) throws(ServiceError) -> [CoordinatorMachine.Action] {
        try machine.checkReady()
        try machine.check(name: name, of: "sequence")
        let known = machine.state.models[.canary]
        let model: ModelRecord
        if let known { model = known } else { model = try .canary(of: machine.state.shape) }
        if let entry = machine.state.sequence(named: name), !entry.isClosing, entry.record.isCanary {
            return machine.answer(
                item.answer(OpenedSequence(sequence: entry.record, model: model)), whenOpen: entry.record.id)
        }
        let new = try machine.newSequence(name, model: .canary, scope: "")
        let put =
            known == nil ? machine.persist([.model(model)]) + machine.carry(.putModel(model)) : []
        let entry = SequenceEntry(new, ownedBy: machine.caller(of: item.place))
        return put + machine.persist([.sequence(entry), machine.nextIDs(afterSequence: new.id)])
            + machine.carry(.open(new), for: item.answer(OpenedSequence(sequence: new, model: model)))
    }
}

extension ModelRecord {
    fileprivate static func canary(of shape: ClusterShape) throws(ServiceError) -> ModelRecord {
        ModelRecord(id: .canary, name: CanaryNames.model, description: try shape.canaryModel())
    }
}

extension CoordinatorMachine {
    /// Answers when no rank has a sequence still to open.
    fileprivate mutating func answer(_ waiter: ItemWaiter, whenOpen id: SequenceID) -> [Action] {
        // Usually there is none: a look-up does not search all operations in progress.
        let isOnItsWay =
            underWay[id] != nil
            && join(waiter) { operation in
                switch operation {
                case .open, .fork: operation.sequence == id
                case .putModel, .removeModel, .truncate, .close, .evict, .claim, .retain: false
                }
            }
        return isOnItsWay ? [] : answer(waiter)
    }
}

extension ForkSequence: DirectoryItem {
    package func carryOut(
        on machine: inout CoordinatorMachine, _ item: PendingItem<Self>, from tag: Tag, now: Duration
    ) throws(ServiceError) -> [CoordinatorMachine.Action] {
        try machine.checkReady()
        let parent = try machine.sequence(name, changedBy: item.place)
        try machine.check(claim, of: parent)
        let caller = machine.caller(of: item.place)
        let (record, actions) = try machine.fork(parent, as: newName, length: length, by: caller)
        machine.noteUse(of: name, newName, now: now)
        return actions
            + machine.carry(
                .fork(parent: parent.record.id, child: record.id, length: length, name: newName),
                for: item.answer(record))
    }
}

extension CoordinatorMachine {
    /// Records a fork; the ranks get it later.
    mutating func fork(
        _ parent: SequenceEntry, as newName: String, length: Int, by caller: Caller
    ) throws(ServiceError) -> (SequenceRecord, [Action]) {
        try check(name: newName, of: "sequence")
        let record = try newSequence(newName, model: parent.record.model, scope: parent.record.scope)
        eviction.opened(newName)
        var entry = SequenceEntry(record, ownedBy: caller)
        entry.fork = SequenceEntry.Fork(parent: parent.record.id, length: length)
        return (record, persist([.sequence(entry), nextIDs(afterSequence: record.id)]))
    }
}

extension TruncateSequence: DirectoryItem {
    package func carryOut(
        on machine: inout CoordinatorMachine, _ item: PendingItem<Self>, from tag: Tag, now: Duration
    ) throws(ServiceError) -> [CoordinatorMachine.Action] {
        try machine.checkReady()
        var entry = try machine.sequence(name, changedBy: item.place)
        try machine.check(claim, of: entry)
        // An earlier truncation that some rank has not applied yet still applies.
        entry.truncateLength = min(entry.truncateLength ?? length, length)
        entry.history.note(length, in: machine.state.epoch)
        machine.noteUse(of: name, now: now)
        return machine.persist([.sequence(entry)])
            + machine.carry(.truncate(entry.record.id, length: length), for: item.answer(Done()))
    }
}

extension CloseSequence: DirectoryItem {
    package func carryOut(
        on machine: inout CoordinatorMachine, _ item: PendingItem<Self>, from tag: Tag, now: Duration
    ) throws(ServiceError) -> [CoordinatorMachine.Action] {
        try machine.checkReady()
        var entry = try machine.sequence(name, changedBy: item.place)
        try machine.check(claim, of: entry)
        if keep {
            entry.retention.isKept = true
            return machine.persist([.sequence(entry)]) + machine.giveUp(entry, item.answer(Done()))
                + machine.tellRetention(of: entry)
        }
        entry.isClosing = true
        return machine.persist([.sequence(entry)])
            + machine.carry(.close(entry.record.id), for: item.answer(Done()))
    }
}

extension SequenceEntry {
    /// A canary's sequence has no owner: every health check uses it.
    init(_ record: SequenceRecord, ownedBy caller: Caller) {
        self.init(record: record, owner: record.isCanary ? "" : caller.identity)
    }
}

extension CoordinatorMachine {
    /// The holder of a claim without a client.
    private static let nobody = "nobody"

    /// A sequence to change.
    /// - Throws: `.accessDenied` if the caller may not change it.
    fileprivate func sequence(_ name: String, changedBy place: ItemPlace) throws(ServiceError) -> SequenceEntry {
        let entry = try sequence(name)
        try caller(of: place).checkChange(of: "sequence `\(name)`", ownedBy: entry.owner)
        return entry
    }

    /// The sequence has no client any more. A new claim without a holder ends its claim: the last client's uncommitted
    /// tokens are rolled back, and its late requests are refused.
    fileprivate mutating func giveUp(_ entry: SequenceEntry, _ waiter: ItemWaiter) -> [Action] {
        let claim = Claim(in: state.epoch, number: takeNumber() & 0xFFFF_FFFF)
        claims.take(claim, of: entry.record.id, for: Tag(client: ClientID(0), number: 0))
        return carry(.claim(entry.record.id, claim, holder: Self.nobody), for: waiter)
    }
}

extension ClaimSequence: DirectoryItem {
    package func carryOut(
        on machine: inout CoordinatorMachine, _ item: PendingItem<Self>, from tag: Tag, now: Duration
    ) throws(ServiceError) -> [CoordinatorMachine.Action] {
        try machine.checkReady()
        let actions = try machine.carryOut(self, item, tag)
        guard var entry = machine.state.sequences[sequence] else { return actions }
        machine.noteUse(of: entry.record.name, now: now)
        // It has a client again.
        guard entry.retention.isKept else { return actions }
        entry.retention.isKept = false
        return machine.persist([.sequence(entry)]) + actions + machine.tellRetention(of: entry)
    }
}

extension RetainSequence: DirectoryItem {
    /// Only the coordinator uses it. Ranks keep it in case the directory is lost, and no client waits for them.
    package func carryOut(
        on machine: inout CoordinatorMachine, _ item: PendingItem<Self>, from tag: Tag, now: Duration
    ) throws(ServiceError) -> [CoordinatorMachine.Action] {
        guard machine.adoption == nil else {
            throw ServiceError(
                .notReady,
                "The directory is being rebuilt from the ranks' stores, which say how long `\(name)` stays: "
                    + "\(machine.reason). Try again when the cluster is ready.")
        }
        var entry = try machine.sequence(name)
        let before = entry.retention
        if let isPinned { entry.retention.isPinned = isPinned }
        if let priority { entry.retention.priority = priority }
        if let timeToLive { entry.retention.timeToLive = timeToLive }
        let hasChanged = entry.retention != before
        return (hasChanged ? machine.persist([.sequence(entry)]) + machine.tellRetention(of: entry) : [])
            + machine.answer(item.answer(entry.retention))
    }
}

extension CoordinatorMachine {
    /// An absent rank gets it at its join. One that is joining may have been compared already: it gets it afterwards.
    fileprivate mutating func tellRetention(of entry: SequenceEntry) -> [Action] {
        switch phase {
        case .ready: return carry(.retain(entry.record.id, entry.retention))
        case .joining:
            lateRetentions.insert(entry.record.id)
            return []
        case .incomplete: return []
        }
    }

    /// The join is over: tells the ranks what was set during it.
    mutating func tellLateRetentions() -> [Action] {
        let late = lateRetentions.sorted().compactMap { state.sequences[$0] }.filter { !$0.isClosing }
        lateRetentions = []
        return late.flatMap { carry(.retain($0.record.id, $0.retention)) }
    }
}
