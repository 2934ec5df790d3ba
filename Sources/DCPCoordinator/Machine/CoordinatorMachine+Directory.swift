internal import DCPCore
package import DCPWire

/// What clients ask of the directory. Each kind of request says in `carryOut` what becomes of it.
extension CoordinatorMachine {
    public static let nameByteCountMax = 255

    func checkReady() throws(ServiceError) {
        guard case .ready = phase else {
            throw ServiceError(.notReady, "The cluster is not ready: \(reason). Try again when it is.")
        }
    }

    package var sequenceList: SequenceList {
        SequenceList(
            models: state.sortedModels,
            sequences: state.sortedSequences.filter { !$0.isClosing }.map {
                SequenceList.Element(record: $0.record, retention: $0.retention)
            })
    }

    // MARK: Lookups

    func model(_ name: String) throws(ServiceError) -> ModelRecord {
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

    func newSequence(_ name: String, model: ModelID, scope: String) throws(ServiceError) -> SequenceRecord {
        if let known = state.sequence(named: name) {
            guard !known.isClosing else {
                throw ServiceError(.notReady, "Sequence `\(name)` is still being closed; try again in a moment.")
            }
            throw ServiceError(
                .conflict, "A sequence is called `\(name)` already; choose another name or close it first.")
        }
        return SequenceRecord(id: SequenceID(state.nextSequence), name: name, model: model, scope: scope)
    }

    /// A client that names a revision is not given keys and values of another; one that names none takes any.
    func check(revision: String, of model: ModelRecord) throws(ServiceError) {
        guard !revision.isEmpty, revision != model.description.revision else { return }
        throw ServiceError(
            .modelMismatch,
            "Model `\(model.name)` has \(model.description.revision.map { "revision `\($0)`" } ?? "no revision"), the client's is "
                + "`\(revision)`: keys and values of one are wrong for the other. Register the client's under another name."
        )
    }

    func check(scope: String) throws(ServiceError) {
        guard scope.utf8.count <= SequenceRecord.scopeByteCountMax else {
            throw ServiceError(
                .invalidRequest,
                "A scope has at most \(SequenceRecord.scopeByteCountMax) bytes; this one has \(scope.utf8.count). Choose a shorter "
                    + "one.")
        }
    }

    func check(name: String, of kind: String) throws(ServiceError) {
        let isPlain = name.unicodeScalars.allSatisfy { $0.value >= 0x20 && $0.value != 0x7F }
        guard (1...Self.nameByteCountMax).contains(name.utf8.count), isPlain else {
            throw ServiceError(
                .invalidRequest,
                "A \(kind)'s name has 1 to \(Self.nameByteCountMax) bytes and no control characters; this one has "
                    + "\(name.utf8.count) bytes. Choose another --\(kind).")
        }
    }

    /// Numbers are never given twice, also when their holder is removed and the coordinator restarts.
    func nextIDs(afterModel id: ModelID) -> StateChange {
        .nextIDs(model: id.value + 1, sequence: state.nextSequence)
    }

    func nextIDs(afterSequence id: SequenceID) -> StateChange {
        .nextIDs(model: state.nextModel, sequence: id.value + 1)
    }
}
