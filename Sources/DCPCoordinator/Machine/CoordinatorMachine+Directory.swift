internal import DCPCore
public import DCPWire

/// What clients ask of the directory.
extension CoordinatorMachine {
    public static let nameByteCountMax = 255

    public mutating func directoryRequest(
        _ request: DirectoryRequest, link: LinkID, tag: Tag, now: Duration
    ) -> [Action] {
        do throws(ServiceError) {
            let actions = try handle(request, PendingOperation.Requester(link: link, tag: tag))
            noteUse(by: request, now: now)
            return actions
        } catch {
            return [.answer(.failure(error), tag, to: link)]
        }
    }

    private mutating func handle(_ request: DirectoryRequest, _ requester: PendingOperation.Requester)
        throws(ServiceError) -> [Action]
    {
        func answer(_ reply: DirectoryReply) -> [Action] {
            [.answer(.directoryReply(reply), requester.tag, to: requester.link)]
        }
        switch request {
        case .listModels:
            return answer(DirectoryReply(models: state.sortedModels))
        case .listSequences:
            return answer(
                DirectoryReply(
                    models: state.sortedModels,
                    sequences: state.sortedSequences.filter { !$0.isClosing }.map(\.record),
                    pinned: state.sortedSequences.filter { !$0.isClosing && $0.isPinned }.map(\.record.id)))
        case .pin(let name): return try pin(name, true, requester)
        case .unpin(let name): return try pin(name, false, requester)
        case .registerModel, .removeModel, .openSequence, .truncate, .fork, .close, .claim:
            break
        }
        guard case .ready = phase else {
            throw ServiceError(.notReady, "The cluster is not ready: \(reason). Try again when it is.")
        }
        switch request {
        case .listModels, .listSequences, .pin, .unpin: return []
        case .registerModel(let name, let description): return try registerModel(name, description, requester)
        case .removeModel(let name): return try removeModel(name, requester)
        case .openSequence(let name, let model, let revision, let create):
            return try openSequence(name, model: model, revision: revision, create: create, requester)
        case .claim(let id, let held): return try claim(id, held: held, requester)
        case .truncate(let name, let length, let claim):
            var entry = try sequence(name)
            try check(claim, of: entry)
            // An earlier one that some rank may still owe holds, whatever comes after it.
            entry.truncateLength = min(entry.truncateLength ?? length, length)
            entry.history.note(length, in: state.epoch)
            return persist([.sequence(entry)])
                + carry(
                    .truncate(entry.record.id, length: length), for: requester,
                    reply: DirectoryReply(sequences: [entry.record]))
        case .fork(let name, let newName, let length, let claim):
            return try fork(name, newName, length, claim, requester)
        case .close(let name, let claim):
            var entry = try sequence(name)
            try check(claim, of: entry)
            entry.isClosing = true
            return persist([.sequence(entry)])
                + carry(
                    .close(entry.record.id), for: requester, reply: DirectoryReply(sequences: [entry.record]))
        }
    }

    private mutating func registerModel(
        _ name: String, _ description: ModelDescription, _ requester: PendingOperation.Requester
    ) throws(ServiceError) -> [Action] {
        try check(name: name, of: "model")
        try state.shape.check(description)
        if let known = state.model(named: name) {
            let differences = description.differences(from: known.description)
            guard differences.isEmpty else {
                throw ServiceError(
                    .modelMismatch,
                    "Model `\(name)` is registered, but not as described (\(differences.joined(separator: "; "))); choose "
                        + "another name, or `dcpctl model remove \(name)` first.")
            }
            let isOnItsWay = join(requester) { $0 == .putModel(known) }
            if isOnItsWay { return [] }
            return [.answer(.directoryReply(DirectoryReply(models: [known])), requester.tag, to: requester.link)]
        }
        let record = ModelRecord(id: ModelID(state.nextModel), name: name, description: description)
        return persist([.model(record), nextIDs(afterModel: record.id)])
            + carry(.putModel(record), for: requester, reply: DirectoryReply(models: [record]))
    }

    private mutating func removeModel(
        _ name: String, _ requester: PendingOperation.Requester
    ) throws(ServiceError) -> [Action] {
        let record = try model(name)
        let users = state.sortedSequences.filter { $0.record.model == record.id }
        guard users.isEmpty else {
            throw ServiceError(
                .conflict,
                "\(users.count) sequences use model `\(name)`, `\(users[0].record.name)` among them; close them first "
                    + "(dcpctl sequence close).")
        }
        return persist([.modelRemoved(record.id)])
            + carry(.removeModel(record.id), for: requester, reply: DirectoryReply(models: [record]))
    }

    private mutating func openSequence(
        _ name: String, model modelName: String, revision: String, create: Bool, _ requester: PendingOperation.Requester
    ) throws(ServiceError) -> [Action] {
        try check(name: name, of: "sequence")
        if let known = state.sequence(named: name), !known.isClosing {
            guard let owner = state.models[known.record.model] else {
                throw ServiceError(.internal, "\(known.record.id) has the unknown \(known.record.model).")
            }
            guard NameKey(owner.name) == NameKey(modelName) || modelName.isEmpty else {
                throw ServiceError(
                    .modelMismatch,
                    "Sequence `\(name)` belongs to model `\(owner.name)`, not `\(modelName)`; choose another --sequence "
                        + "or --model.")
            }
            try check(revision, of: owner)
            let isOnItsWay = join(requester) { operation in
                switch operation {
                case .open(let id, _), .fork(_, let id, _): id == known.record.id
                case .putModel, .removeModel, .truncate, .close, .evict, .claim: false
                }
            }
            if isOnItsWay { return [] }
            let reply = DirectoryReply(models: [owner], sequences: [known.record])
            return [.answer(.directoryReply(reply), requester.tag, to: requester.link)]
        }
        guard create else { throw unknownSequence(name) }
        let record = try model(modelName)
        try check(revision, of: record)
        let new = try newSequence(name, model: record.id)
        eviction.opened(name)
        return persist([.sequence(SequenceEntry(record: new)), nextIDs(afterSequence: new.id)])
            + carry(
                .open(new.id, model: record.id), for: requester,
                reply: DirectoryReply(models: [record], sequences: [new]))
    }

    private mutating func fork(
        _ name: String, _ newName: String, _ length: Int, _ claim: Claim, _ requester: PendingOperation.Requester
    ) throws(ServiceError) -> [Action] {
        try check(name: newName, of: "sequence")
        let parent = try sequence(name)
        try check(claim, of: parent)
        let record = try newSequence(newName, model: parent.record.model)
        var entry = SequenceEntry(record: record)
        entry.fork = SequenceEntry.Fork(parent: parent.record.id, length: length)
        return persist([.sequence(entry), nextIDs(afterSequence: record.id)])
            + carry(
                .fork(parent: parent.record.id, child: record.id, length: length), for: requester,
                reply: DirectoryReply(sequences: [record]))
    }

    // MARK: Lookups

    private func model(_ name: String) throws(ServiceError) -> ModelRecord {
        guard let record = state.model(named: name) else {
            throw ServiceError(
                .unknownModel, "No model is called `\(name)`; `dcpctl model list` shows those there are.")
        }
        return record
    }

    func sequence(_ name: String) throws(ServiceError) -> SequenceEntry {
        guard let entry = state.sequence(named: name), !entry.isClosing else { throw unknownSequence(name) }
        return entry
    }

    func unknownSequence(_ name: String) -> ServiceError {
        if eviction.wasEvicted(name) {
            return ServiceError(
                .evicted,
                "Sequence `\(name)` was the least recently used when a store was full, and was closed to make room (--evict "
                    + "lru); prefill it again, and pin it if it must stay (dcpctl sequence pin).")
        }
        return ServiceError(
            .unknownSequence, "No sequence is called `\(name)`; `dcpctl sequence list` shows those there are.")
    }

    private func newSequence(_ name: String, model: ModelID) throws(ServiceError) -> SequenceRecord {
        if let known = state.sequence(named: name) {
            guard !known.isClosing else {
                throw ServiceError(.notReady, "Sequence `\(name)` is still being closed; try again in a moment.")
            }
            throw ServiceError(
                .conflict, "A sequence is called `\(name)` already; choose another name or close it first.")
        }
        return SequenceRecord(id: SequenceID(state.nextSequence), name: name, model: model)
    }

    /// A client that names a revision is not given keys and values of another; one that names none takes any.
    private func check(_ revision: String, of model: ModelRecord) throws(ServiceError) {
        guard !revision.isEmpty, revision != model.description.revision else { return }
        throw ServiceError(
            .modelMismatch,
            "Model `\(model.name)` has \(model.description.revision.map { "revision `\($0)`" } ?? "no revision"), the client's is "
                + "`\(revision)`: keys and values of one are wrong for the other. Register the client's under another name."
        )
    }

    private func check(name: String, of kind: String) throws(ServiceError) {
        let isPlain = name.unicodeScalars.allSatisfy { $0.value >= 0x20 && $0.value != 0x7F }
        guard (1...Self.nameByteCountMax).contains(name.utf8.count), isPlain else {
            throw ServiceError(
                .invalidRequest,
                "A \(kind)'s name has 1 to \(Self.nameByteCountMax) bytes and no control characters; this one has "
                    + "\(name.utf8.count) bytes. Choose another --\(kind).")
        }
    }

    /// Numbers are never given twice, also when their holder is removed and the coordinator restarts.
    private func nextIDs(afterModel id: ModelID) -> StateChange {
        .nextIDs(model: id.value + 1, sequence: state.nextSequence)
    }

    private func nextIDs(afterSequence id: SequenceID) -> StateChange {
        .nextIDs(model: state.nextModel, sequence: id.value + 1)
    }
}
